{{/*
A value as a CEL literal: (list value names). `names` gives the expression that stands for a placeholder, which may be
all of a text or a part of it. Whatever a map or a list holds is dyn(): Kubernetes refuses literals of mixed types.
*/}}
{{- define "token-sidecar-injector.cel" -}}
{{- $value := index . 0 -}}
{{- $names := index . 1 -}}
{{- if kindIs "map" $value -}}
{
{{- range $key := keys $value | sortAlpha -}}
{{- printf "%s: dyn(%s)," (toJson $key) (include "token-sidecar-injector.cel" (list (get $value $key) $names)) | nindent 2 -}}
{{- end }}
}
{{- else if and (kindIs "slice" $value) (not $value) -}}
[]
{{- else if kindIs "slice" $value -}}
[
{{- range $value -}}
{{- printf "dyn(%s)," (include "token-sidecar-injector.cel" (list . $names)) | nindent 2 -}}
{{- end }}
]
{{- else if and (kindIs "string" $value) (hasKey $names (toString $value)) -}}
{{- get $names $value -}}
{{- else if kindIs "string" $value -}}
{{- $text := toJson $value -}}
{{- range $name, $expression := $names -}}
{{- $text = replace $name (printf "\" + %s + \"" $expression) $text -}}
{{- end -}}
{{- trimSuffix " + \"\"" $text -}}
{{- else if kindIs "float64" $value -}}
{{- /* YAML is read by way of JSON, which has no integers. */ -}}
{{- if eq $value (floor $value) -}}{{ int64 $value }}{{- else -}}{{ $value }}{{- end -}}
{{- else -}}
{{- toJson $value -}}
{{- end -}}
{{- end -}}

{{/* A list of named things as CEL: (list items names), where some are there only if the parameters say so. */}}
{{- define "token-sidecar-injector.items" -}}
{{- $names := index . 1 -}}
{{- $parts := list -}}
{{- range $item := index . 0 -}}
{{- $literal := include "token-sidecar-injector.cel" (list $item $names) -}}
{{- if eq $item.name "token-sidecar-kube-api-access" -}}
{{- $parts = append $parts (printf "(variables.kubernetes ? [dyn(%s)] : [])" $literal) -}}
{{- else if contains "cel--secret" $item.name -}}
{{- $parts = append $parts (printf "variables.secrets.map(secret, dyn(%s))" $literal) -}}
{{- else -}}
{{- $parts = append $parts (printf "[dyn(%s)]" $literal) -}}
{{- end -}}
{{- end -}}
{{- join " +\n" $parts -}}
{{- end -}}
