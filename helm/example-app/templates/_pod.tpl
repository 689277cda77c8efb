{{/* The pod, whatever runs it: an application as it was, and the sidecar's includes. */}}
{{- define "example-app.pod" -}}
metadata:
  labels:
    {{- include "example-app.selector" . | nindent 4 }}
  annotations:
    {{- include "token-sidecar.podAnnotations" . | nindent 4 }}
spec:
  serviceAccountName: {{ include "token-sidecar.serviceAccountName" . }}
  automountServiceAccountToken: false
  {{- if has .Values.kind (list "Job" "CronJob") }}
  restartPolicy: OnFailure
  {{- end }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  initContainers:
    {{- include "token-sidecar.initContainers" . | nindent 4 }}
  containers:
    - name: app
      image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      {{- if has .Values.kind (list "Job" "CronJob") }}
      args: [--once]
      {{- end }}
      env:
        - name: GMAIL_ACCOUNT
          value: {{ .Values.account | quote }}
        - name: GMAIL_SECRETS_DIR
          value: /run/tokens
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      volumeMounts:
        {{- include "token-sidecar.appVolumeMount" . | nindent 8 }}
    {{- if not (has .Values.kind (list "Job" "CronJob")) }}
    {{- /* Nothing, unless the cluster has no native sidecars. A Job would never complete with it. */}}
    {{- include "token-sidecar.containers" . | nindent 4 }}
    {{- end }}
  volumes:
    {{- include "token-sidecar.volumes" . | nindent 4 }}
{{- end -}}

{{- define "example-app.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
