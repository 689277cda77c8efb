{{/*
Four templates for the application's own chart. Each takes this chart's scope, which is
(index .Subcharts "token-sidecar") from a chart that depends on it.
*/}}

{{- define "token-sidecar.configMapName" -}}
{{- printf "%s-token-sidecar" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The daemon's configuration with the chart's own settings in it. */}}
{{- define "token-sidecar.config" -}}
{{- $own := dict "server" (dict "host" "::" "port" 9640) "state_dir" "/run/token-sidecar" -}}
{{- toYaml (mergeOverwrite (deepCopy .Values.config) $own) -}}
{{- end -}}

{{- define "token-sidecar.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* 1. An item of the pod's initContainers: a native sidecar. */}}
{{- define "token-sidecar.initContainers" -}}
- name: token-sidecar
  image: {{ include "token-sidecar.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  restartPolicy: Always
  args: [run, --config, /etc/token-sidecar/config.yaml]
  {{- with .Values.env }}
  env: {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    - {name: token-sidecar, containerPort: 9640}
  startupProbe:
    httpGet: {path: /startupz, port: 9640}
    {{- toYaml .Values.startupProbe | nindent 4 }}
  livenessProbe:
    httpGet: {path: /livez, port: 9640}
    {{- toYaml .Values.livenessProbe | nindent 4 }}
  readinessProbe:
    httpGet: {path: /readyz, port: 9640}
    {{- toYaml .Values.readinessProbe | nindent 4 }}
  resources: {{- toYaml .Values.resources | nindent 4 }}
  securityContext: {{- toYaml .Values.securityContext | nindent 4 }}
  volumeMounts:
    - {name: token-sidecar-tokens, mountPath: {{ .Values.tokensDirectory | quote }}}
    - {name: token-sidecar-state, mountPath: /run/token-sidecar}
    - {name: token-sidecar-config, mountPath: /etc/token-sidecar, readOnly: true}
    {{- with .Values.volumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* 2. Items of the pod's volumes. */}}
{{- define "token-sidecar.volumes" -}}
- name: token-sidecar-tokens
  emptyDir: {medium: Memory, sizeLimit: {{ .Values.tokensSizeLimit }}}
- name: token-sidecar-state
  emptyDir: {medium: Memory, sizeLimit: {{ .Values.stateSizeLimit }}}
- name: token-sidecar-config
  configMap: {name: {{ include "token-sidecar.configMapName" . }}}
{{- end -}}

{{/* 3. An item of the application container's volumeMounts: it reads, and can neither delete nor replace. */}}
{{- define "token-sidecar.appVolumeMount" -}}
- {name: token-sidecar-tokens, mountPath: {{ .Values.tokensDirectory | quote }}, readOnly: true}
{{- end -}}

{{/* 4. A pod annotation: the pods are replaced when the configuration changes. */}}
{{- define "token-sidecar.annotations" -}}
checksum/token-sidecar: {{ include "token-sidecar.config" . | sha256sum }}
{{- end -}}
