"""What we use of Grafana: tables of instant queries, lines, single numbers, variables and annotations.

No more than what can't go wrong unseen, since no Grafana runs in the tests. The queries of a table have the same
labels, so that Grafana's `merge` has one row for each; `organize` then names and orders its columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from string import ascii_uppercase
from typing import Any, NamedTuple, TypeVar

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import prometheus as prometheus_models

_T = TypeVar("_T")

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")

Look = tuple[models.DynamicConfigValue, ...]
"""How a column looks: settings that differ from those of its table; of the same one the last holds."""

Words = dict[str, tuple[str, str]]
"""Values as JavaScript spells them (`0`, `Infinity`), and for each the text and the color to show in its place."""


class Column(NamedTuple):
    """One query of a table, and the column of its values; without a title only its labels are shown."""

    title: str
    expr: str
    look: Look = ()


def unit(name: str, decimals: int) -> Look:
    """Show numbers in one of Grafana's units, and what is NaN as unknown."""
    return (*_setting("unit", name), *_setting("decimals", decimals), *says({}))


def says(words: Words, *, nothing_below: float | None = None) -> Look:
    """Show words in place of values; `nothing_below`: such numbers mean that there is nothing."""
    mappings: list[models.ValueMapping] = []
    if words:
        mappings.append(
            models.ValueMap({value: models.ValueMappingResult(*word) for value, word in words.items()})
        )
    if nothing_below is not None:
        # Both ends are numbers: Grafana takes null for 0.
        nothing = models.ValueMappingResult("nothing", "red")
        mappings.append(models.RangeMap(models.DashboardRangeMapOptions(-1e12, nothing_below, nothing)))
    unknown = models.ValueMappingResult("unknown", "transparent")
    mappings.append(
        models.SpecialValueMap(
            models.DashboardSpecialValueMapOptions(models.SpecialValueMatch.NULL_AND_NAN, unknown)
        )
    )
    return _setting("mappings", mappings)


def colored(first: str, *steps: tuple[float, str]) -> Look:
    """Color cells by the last step that their value reaches; by `first` below all of them."""
    thresholds = models.ThresholdsConfig(models.ThresholdsMode.ABSOLUTE, _thresholds(first, steps))
    return (
        *_setting("custom.cellOptions", {"type": "color-background", "mode": "basic"}),
        *_setting("color", {"mode": "thresholds"}),
        *_setting("thresholds", thresholds),
    )


def _setting(name: str, value: object) -> Look:
    return (models.DynamicConfigValue(name, value),)


def _thresholds(first: str, steps: Iterable[tuple[float, str]]) -> list[models.Threshold]:
    return [models.Threshold(None, first), *(models.Threshold(value, color) for value, color in steps)]


class Panels:
    """Puts panels onto a dashboard, one after another, each with a number of its own."""

    def __init__(self, board: dashboard.Dashboard) -> None:
        self._board = board
        self._ids = count(1)

    def row(self, title: str) -> None:
        """Begin a row."""
        self._board.with_row(dashboard.Row(title).id(next(self._ids)))

    def table(
        self,
        title: str,
        description: str,
        columns: Sequence[Column],
        *,
        keys: Sequence[str],
        none: str,
        greatest: str | None = None,
        least: str | None = None,
        looks: dict[str, Look] | None = None,
        span: int = 24,
        height: int = 8,
    ) -> None:
        """Show a row for each set of the labels `keys`, and a column for each query.

        It is sorted by the column `greatest` or `least`. `looks` are those of the labels' columns, whose titles are the
        labels with a capital; `none` is shown where there are no rows. A panel is up to 24 columns of the grid wide.
        """
        order = (
            common.TableSortByFieldState().display_name(greatest or least or "").desc(greatest is not None)
        )
        panel = table.Panel().sort_by([order]).align(common_models.FieldTextAlignment.AUTO)
        for ref, column in _lettered(columns):
            query = _query(ref, column.expr).instant().format(prometheus_models.PromQueryFormat.TABLE)
            panel.with_target(query)
        shown = {column.title: column.look for column in columns if column.title} | (looks or {})
        for name, look in shown.items():
            panel.override_by_name(name, list({one.id_val: one for one in look}.values()))
        if len(columns) > 1:
            panel.with_transformation(models.DataTransformerConfig("merge", options={}))
        organized = models.DataTransformerConfig("organize", options=_organized(keys, columns))
        self._add(panel.with_transformation(organized), title, description, none, span, height)

    def graph(
        self,
        title: str,
        description: str,
        queries: dict[str, str],
        *,
        unit: str,
        none: str,
        from_zero: bool = True,
        span: int = 12,
    ) -> None:
        """Show lines; `queries` are expressions by what each of their lines is called."""
        legend = common.VizLegendOptions().display_mode(common_models.LegendDisplayMode.LIST)
        tooltip = common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI)
        panel = (
            timeseries.Panel()
            .unit(unit)
            .line_width(1)
            .fill_opacity(10)
            .legend(legend.show_legend(True).placement(common_models.LegendPlacement.BOTTOM))  # noqa: FBT003
            .tooltip(tooltip.sort(common_models.SortOrder.DESCENDING))
        )
        if from_zero:
            panel.min(0)
        for ref, (name, expr) in _lettered(queries.items()):
            # $__rate_interval is then at least four of it: enough for the half minute between scrapes of the chart.
            panel.with_target(_query(ref, expr).range().interval("30s").legend_format(name))
        self._add(panel, title, description, none, span, 8)

    def number(self, title: str, description: str, expr: str, *, bad: str = "red") -> None:
        """Show a number that is 0 when all is well."""
        panel = (
            stat.Panel()
            .unit("short")
            .decimals(0)
            .color_mode(common_models.BigValueColorMode.BACKGROUND)
            .graph_mode(common_models.BigValueGraphMode.NONE)
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
            .thresholds(
                dashboard.ThresholdsConfig()
                .mode(models.ThresholdsMode.ABSOLUTE)
                .steps(_thresholds("green", [(1, bad)]))
            )
            .with_target(_query("A", expr).instant())
        )
        self._add(panel, title, description, "unknown", 4, 4)

    def _add(self, panel: Any, title: str, description: str, none: str, span: int, height: int) -> None:
        panel.id(next(self._ids)).title(title).description(description).no_value(none).datasource(SOURCE)
        self._board.with_panel(panel.span(span).height(height))


def _lettered(items: Iterable[_T]) -> list[tuple[str, _T]]:
    return list(zip(ascii_uppercase, items, strict=False))


def _query(ref: str, expr: str) -> prometheus.Dataquery:
    query = prometheus.Dataquery().ref_id(ref).expr(expr).datasource(SOURCE)
    return query.editor_mode(prometheus_models.QueryEditorMode.CODE)


def _organized(keys: Sequence[str], columns: Sequence[Column]) -> dict[str, object]:
    """Order the columns and name them, without the time, which is that of the query."""
    # The name that Grafana gives to values depends on whether there are other queries.
    values = {
        f"Value #{ref}" if len(columns) > 1 else "Value": column.title for ref, column in _lettered(columns)
    }
    hidden = ["Time", *(value for value, title in values.items() if not title)]
    titles = {key: key.capitalize() for key in keys} | values
    return {
        "excludeByName": dict.fromkeys(hidden, True),
        "indexByName": {name: place for place, name in enumerate([*keys, *values])},
        "renameByName": {name: title for name, title in titles.items() if title},
    }


def variable(name: str, series: str) -> dashboard.QueryVariable:
    """Let some of a label's values be chosen, all at first: `.*`, which series without the label match as well."""
    query: dict[str, object] = {"qryType": 1, "query": f"label_values({series}, {name})", "refId": name}
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .query(query)
        .datasource(SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)  # noqa: FBT003
        .include_all(True)  # noqa: FBT003
        .all_value(".*")
        .current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


class Annotation(models.AnnotationQuery):
    """What happened, marked in every graph: the library's class, and what Prometheus' annotations have beside it."""

    def __init__(self, name: str, color: str, expr: str, text: str) -> None:
        super().__init__(name=name, datasource=SOURCE, enable=True, icon_color=color, expr=expr)
        self._text = text

    def to_json(self) -> dict[str, object]:
        # Some of Grafana's versions read the query from `target`, and the others from here.
        target = {"expr": self.expr, "refId": "Anno", "interval": "60s"}
        return {
            **super().to_json(), "target": target, "step": "60s", "titleFormat": self.name, "textFormat": self._text
        }  # fmt: skip


class Built(Builder[_T]):
    """Hands over what is built already to a builder that takes only builders."""

    def __init__(self, built: _T) -> None:
        self._built = built

    def build(self) -> _T:
        return self._built
