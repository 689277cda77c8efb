{{- define "token-sidecar-injector.metadata" -}}
name: {{ .Release.Name | trunc 63 | trimSuffix "-" | quote }}
labels:
  {{- $labels := dict "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") "app.kubernetes.io/name" .Chart.Name
        "app.kubernetes.io/instance" .Release.Name "app.kubernetes.io/version" .Chart.AppVersion "app.kubernetes.io/managed-by" .Release.Service }}
  {{- toYaml (merge (dict) (.Values.labels | default dict) $labels) | nindent 2 }}
{{- with .Values.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Pods at their creation that ask for a sidecar. */}}
{{- define "token-sidecar-injector.matchConstraints" -}}
matchPolicy: Equivalent
namespaceSelector:
  {{- toYaml .Values.namespaceSelector | nindent 2 }}
objectSelector:
  matchExpressions:
    - {key: {{ .Values.label | quote }}, operator: Exists}
    - {key: {{ .Values.label | quote }}, operator: NotIn, values: ["false"]}
resourceRules:
  - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods], scope: Namespaced}
{{- end -}}

{{/* True of a pod that has a sidecar, native or not, whoever put it there. */}}
{{- define "token-sidecar-injector.isThere" -}}
(object.spec.?initContainers.orValue([]).exists(c, c.name == "token-sidecar") ||
  object.spec.containers.exists(c, c.name == "token-sidecar"))
{{- end -}}
