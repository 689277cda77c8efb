{{/*
The sidecar, its volumes and the application's mount, as the chart token-sidecar renders them, with placeholders for what
the ConfigMap of a namespace says: {container, volumes, mount}.
*/}}
{{- define "token-sidecar-injector.shapes" -}}
{{- $chart := index .Subcharts "token-sidecar" -}}
{{- $values := deepCopy $chart.Values -}}
{{- if or $values.secretMounts $values.config -}}
{{- fail "token-sidecar: `config` and `secretMounts` belong to a namespace: they stand in its ConfigMap" -}}
{{- end -}}
{{- if not $values.native -}}
{{- fail "token-sidecar.native: only native sidecars are injected; every Kubernetes that can inject has them" -}}
{{- end -}}
{{- $given := dict "fullnameOverride" "cel--parameters" "tokensDirectory" "cel--directory"
      "config" (dict "tokens" (dict "any" (dict))) "secretMounts" (dict "cel--secret" "cel--path")
      "serviceAccountToken" (dict "mount" "always")
      "securityContext" (dict) -}}
{{- range $key, $name := dict "runAsUser" "cel--user" "runAsGroup" "cel--group" -}}
{{- if get $values.securityContext $key -}}
{{- $given = set $given "securityContext" (set $given.securityContext $key $name) -}}
{{- end -}}
{{- end -}}
{{- $scope := dict "Values" (mergeOverwrite $values $given) "Chart" $chart.Chart "Capabilities" .Capabilities
      "Release" .Release "Template" .Template "Files" $chart.Files "Subcharts" dict -}}
{{- $container := include "token-sidecar.own.initContainers" $scope | fromYamlArray | first -}}
{{- $volumes := include "token-sidecar.own.volumes" $scope | fromYamlArray -}}
{{- $mount := include "token-sidecar.own.appVolumeMount" $scope | fromYamlArray | first -}}
{{- dict "container" $container "volumes" $volumes "mount" $mount | toJson -}}
{{- end -}}
