{{/*
How the named templates find this chart. `within` takes the name of a template and a scope: that of a chart which
depends on this one (its `.`, at the top), or this chart's own. The other template is then rendered in this chart's own.
*/}}
{{- define "token-sidecar.within" -}}
{{- $template := index . 0 -}}
{{- $scope := index . 1 -}}
{{- if not (and (kindIs "map" $scope) (hasKey $scope "Chart") (hasKey $scope "Subcharts")) -}}
{{- fail "token-sidecar: the templates want the chart's own scope: include them with `.`, or with `$` inside range and with" -}}
{{- end -}}
{{- $own := dict -}}
{{- if index ($scope.Chart.Annotations | default dict) "token-sidecar/chart" -}}
{{- $own = dict "itself" $scope -}}
{{- else -}}
{{- range $name, $chart := $scope.Subcharts -}}
{{- if index ($chart.Chart.Annotations | default dict) "token-sidecar/chart" -}}
{{- $own = set $own $name $chart -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $names := keys $own | sortAlpha -}}
{{- if not $names -}}
{{- fail (printf "token-sidecar: chart %s doesn't depend on it; add it to `dependencies` in Chart.yaml, without a `condition`, and run `helm dependency build`" $scope.Chart.Name) -}}
{{- else if gt (len $names) 1 -}}
{{- fail (printf "token-sidecar: chart %s depends on it as %s; say which one you mean: (index .Subcharts %q)" $scope.Chart.Name (join " and " $names) (first $names)) -}}
{{- end -}}
{{- $found := index $own (first $names) -}}
{{- if $found.Values.enabled -}}
{{- include $template $found -}}
{{- end -}}
{{- end -}}

{{/* The templates for the application's own chart. */}}

{{/* 1. Items of the pod's initContainers: the native sidecar, or what fetches the tokens before the application starts. */}}
{{- define "token-sidecar.initContainers" -}}
{{- include "token-sidecar.within" (list "token-sidecar.own.initContainers" .) -}}
{{- end -}}

{{/* 2. An item of the application container's volumeMounts. */}}
{{- define "token-sidecar.appVolumeMount" -}}
{{- include "token-sidecar.within" (list "token-sidecar.own.appVolumeMount" .) -}}
{{- end -}}

{{/* 3. Items of the pod's volumes. */}}
{{- define "token-sidecar.volumes" -}}
{{- include "token-sidecar.within" (list "token-sidecar.own.volumes" .) -}}
{{- end -}}

{{/* 4. A pod annotation: pods are replaced when the configuration changes. */}}
{{- define "token-sidecar.podAnnotations" -}}
{{- include "token-sidecar.within" (list "token-sidecar.own.podAnnotations" .) -}}
{{- end -}}

{{/* 5. Items of the pod's containers: none, or with `native: false` the sidecar. */}}
{{- define "token-sidecar.containers" -}}
{{- include "token-sidecar.within" (list "token-sidecar.own.containers" .) -}}
{{- end -}}

{{/* 6. The ServiceAccount that is made or named in the values. */}}
{{- define "token-sidecar.serviceAccountName" -}}
{{- include "token-sidecar.within" (list "token-sidecar.own.serviceAccountName" .) -}}
{{- end -}}

{{/* 7. A paragraph for the chart's NOTES.txt. */}}
{{- define "token-sidecar.notes" -}}
{{- include "token-sidecar.within" (list "token-sidecar.own.notes" .) -}}
{{- end -}}

{{/* From here on the scope is this chart's own. */}}

{{- define "token-sidecar.fullname" -}}
{{- include "token-sidecar.shortened" (.Values.fullnameOverride | default (printf "%s-%s" .Release.Name (kebabcase .Chart.Name))) -}}
{{- end -}}

{{/* A name that fits: where its end had to go, a digest of the whole still tells it from others (sidecar/cli/render). */}}
{{- define "token-sidecar.shortened" -}}
{{- if le (len .) 63 -}}
{{- . -}}
{{- else -}}
{{- printf "%s-%s" (regexReplaceAll "-+$" (trunc 54 .) "") (sha256sum . | trunc 8) -}}
{{- end -}}
{{- end -}}

{{/*
The name of a Role and its binding: (list scope namespace). Outside the release's own namespace releases of the same name
meet, so theirs is part of the name.
*/}}
{{- define "token-sidecar.roleName" -}}
{{- $own := index . 0 -}}
{{- $name := include "token-sidecar.fullname" $own -}}
{{- if eq (index . 1) $own.Release.Namespace -}}
{{- $name -}}
{{- else -}}
{{- include "token-sidecar.shortened" (printf "%s-%s" $name $own.Release.Namespace) -}}
{{- end -}}
{{- end -}}

{{- define "token-sidecar.labels" -}}
{{- $labels := dict "helm.sh/chart" (printf "token-sidecar-%s" .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
      "app.kubernetes.io/name" "token-sidecar" "app.kubernetes.io/instance" .Release.Name
      "app.kubernetes.io/version" .Chart.AppVersion "app.kubernetes.io/managed-by" .Release.Service -}}
{{- toYaml (merge (dict) (.Values.labels | default dict) $labels) -}}
{{- end -}}

{{/* The metadata of an object: (dict "own" . "name" … "namespace" … "labels" … "annotations" …), all but own optional. */}}
{{- define "token-sidecar.metadata" -}}
name: {{ .name | default (include "token-sidecar.fullname" .own) | quote }}
namespace: {{ .namespace | default .own.Release.Namespace | quote }}
labels:
  {{- toYaml (merge (dict) (.labels | default dict) (include "token-sidecar.labels" .own | fromYaml)) | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) (.own.Values.annotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The daemon's configuration with the chart's defaults below it. */}}
{{- define "token-sidecar.config" -}}
{{- if not (.Values.config).tokens -}}
{{- fail (printf "%s.config.tokens: is empty; say which tokens to keep fresh" .Chart.Name) -}}
{{- end -}}
{{- $defaults := dict "server" (dict "host" "::" "port" 9640) "state_dir" "/run/token-sidecar" -}}
{{- toYaml (mergeOverwrite $defaults (deepCopy .Values.config)) -}}
{{- end -}}

{{- define "token-sidecar.stateDirectory" -}}
{{- $path := (include "token-sidecar.config" . | fromYaml).state_dir -}}
{{- if not (regexMatch "^/[^$]*$" $path) -}}
{{- fail (printf "%s.config.state_dir: %s is no absolute path without variables, and the volume is mounted there" .Chart.Name $path) -}}
{{- end -}}
{{- $path -}}
{{- end -}}

{{- define "token-sidecar.port" -}}
{{- $server := (include "token-sidecar.config" . | fromYaml).server -}}
{{- $port := int $server.port -}}
{{- if not $port -}}
{{- fail (printf "%s.config.server.port: %v is no port that probes could ask; write a number" .Chart.Name $server.port) -}}
{{- end -}}
{{- if and (eq .Values.probeHandler "httpGet") (has (toString $server.host) (list "127.0.0.1" "::1" "localhost")) -}}
{{- fail (printf "%s.config.server.host: kubelet can't reach %s; leave it out, or set `probeHandler: exec`" .Chart.Name $server.host) -}}
{{- end -}}
{{- $port -}}
{{- end -}}

{{- define "token-sidecar.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ printf "%s@%s" .repository .digest }}{{- else -}}{{ printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* The name of a pod's volume for a Secret, which may have a longer name than a volume can have. */}}
{{- define "token-sidecar.secretVolume" -}}
{{- if and (regexMatch "^[a-z0-9-]+$" .) (le (len .) 40) -}}
{{- printf "token-sidecar-secret-%s" . -}}
{{- else -}}
{{- printf "token-sidecar-secret-%s" (sha256sum . | trunc 8) -}}
{{- end -}}
{{- end -}}

{{- define "token-sidecar.own.serviceAccountName" -}}
{{- $account := .Values.serviceAccount | default dict -}}
{{- $named := tpl ($account.name | default "") . -}}
{{- if $account.create -}}
{{- $named | default (include "token-sidecar.fullname" .) -}}
{{- else -}}
{{- $named | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "token-sidecar.own.podAnnotations" -}}
checksum/token-sidecar: {{ include "token-sidecar.config" . | sha256sum }}
{{- end -}}

{{/* Where the application finds the tokens. */}}
{{- define "token-sidecar.appDirectory" -}}
{{- (.Values.appVolumeMount).mountPath | default .Values.tokensDirectory -}}
{{- end -}}

{{- define "token-sidecar.own.appVolumeMount" -}}
- name: token-sidecar-tokens
  mountPath: {{ include "token-sidecar.appDirectory" . | quote }}
  readOnly: {{ ne (toString (.Values.appVolumeMount).readOnly) "false" }}
{{- end -}}

{{- define "token-sidecar.own.initContainers" -}}
{{- include "token-sidecar.checkFiles" . -}}
{{- if .Values.native -}}
{{- if semverCompare "<1.29.0-0" .Capabilities.KubeVersion.Version -}}
{{- fail (printf "token-sidecar: Kubernetes %s has no native sidecars (1.29 has); set %s.native to false" .Capabilities.KubeVersion.Version .Chart.Name) -}}
{{- end -}}
- name: token-sidecar
  restartPolicy: Always
  args: [run, --config, /etc/token-sidecar/config.yaml]
  {{- include "token-sidecar.container" . | nindent 2 }}
  {{- include "token-sidecar.daemon" . | nindent 2 }}
{{- else -}}
- name: token-sidecar-once
  args: [run, --once, --wait, {{ .Values.onceWait | quote }}, --config, /etc/token-sidecar/config.yaml]
  {{- include "token-sidecar.container" . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- define "token-sidecar.own.containers" -}}
{{- if not .Values.native -}}
- name: token-sidecar
  args: [run, --config, /etc/token-sidecar/config.yaml]
  {{- include "token-sidecar.container" . | nindent 2 }}
  {{- include "token-sidecar.daemon" . | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* What only a container that goes on running has. */}}
{{- define "token-sidecar.daemon" -}}
ports:
  - name: token-sidecar
    containerPort: {{ include "token-sidecar.port" . }}
    protocol: TCP
{{- include "token-sidecar.probe" (list . "startupProbe" "startup" "/startupz") }}
{{- include "token-sidecar.probe" (list . "livenessProbe" "live" "/livez") }}
{{- include "token-sidecar.probe" (list . "readinessProbe" "ready" "/readyz") }}
{{- with .Values.lifecycle }}
lifecycle:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "token-sidecar.probe" -}}
{{- $own := index . 0 -}}
{{- $key := index . 1 -}}
{{- $question := index . 2 -}}
{{- $path := index . 3 -}}
{{- with index $own.Values $key }}
{{- if .enabled }}
{{ $key }}:
  {{- if not (or .httpGet .exec .tcpSocket .grpc) }}
  {{- if eq $own.Values.probeHandler "exec" }}
  exec:
    command: [token-sidecar, healthcheck, {{ $question }}]
  {{- else }}
  httpGet:
    path: {{ $path }}
    port: {{ include "token-sidecar.port" $own }}
  {{- end }}
  {{- end }}
  {{- toYaml (omit . "enabled") | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* What every container of ours has. */}}
{{- define "token-sidecar.container" -}}
image: {{ include "token-sidecar.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  {{- $env := include "token-sidecar.podIdentity" . | fromYaml }}
  {{- range $name, $value := .Values.env }}
  {{- $env = set $env $name $value }}
  {{- end }}
  {{- range $name, $value := $env }}
  - name: {{ $name }}
    {{- if kindIs "string" $value }}
    value: {{ $value | quote }}
    {{- else }}
    {{- toYaml $value | nindent 4 }}
    {{- end }}
  {{- end }}
{{- with .Values.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "token-sidecar.securityContext" .Values.securityContext }}
securityContext:
  {{- . | nindent 2 }}
{{- end }}
terminationMessagePolicy: {{ .Values.terminationMessagePolicy }}
volumeMounts:
  - name: token-sidecar-tokens
    mountPath: {{ .Values.tokensDirectory | quote }}
  - name: token-sidecar-state
    mountPath: {{ include "token-sidecar.stateDirectory" . | quote }}
  - name: token-sidecar-config
    mountPath: /etc/token-sidecar
    readOnly: true
  {{- if include "token-sidecar.usesApi" . }}
  - name: token-sidecar-kube-api-access
    mountPath: /var/run/secrets/kubernetes.io/serviceaccount
    readOnly: true
  {{- end }}
  {{- range $secret, $mount := .Values.secretMounts }}
  - name: {{ include "token-sidecar.secretVolume" (tpl $secret $) }}
    mountPath: {{ ternary $mount (get (kindIs "map" $mount | ternary $mount dict) "mountPath") (kindIs "string" $mount) | quote }}
    readOnly: true
  {{- end }}
  {{- range $volume, $mount := .Values.extraVolumeMounts }}
  - {{ toYaml (merge (dict) $mount (dict "name" $volume)) | indent 4 | trim }}
  {{- end }}
{{- end -}}

{{/* Without the keys that were taken away: some versions of Helm don't let null reach a dependency's values, "" always does. */}}
{{- define "token-sidecar.securityContext" -}}
{{- $kept := dict -}}
{{- range $key, $value := . -}}
{{- if not (has $value (list nil "")) -}}
{{- $kept = set $kept $key $value -}}
{{- end -}}
{{- end -}}
{{- with $kept -}}{{ toYaml . }}{{- end -}}
{{- end -}}

{{- define "token-sidecar.podIdentity" -}}
POD_NAME: {valueFrom: {fieldRef: {fieldPath: metadata.name}}}
POD_NAMESPACE: {valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
POD_UID: {valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
{{- end -}}

{{- define "token-sidecar.own.volumes" -}}
- name: token-sidecar-tokens
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.tokensSizeLimit | quote }}
- name: token-sidecar-state
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.stateSizeLimit | quote }}
- name: token-sidecar-config
  configMap:
    name: {{ include "token-sidecar.fullname" . }}
{{- if include "token-sidecar.usesApi" . }}
- name: token-sidecar-kube-api-access
  projected:
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: {{ int ((.Values.serviceAccountToken).expirationSeconds | default 3600) }}
      - configMap:
          name: kube-root-ca.crt
          items: [{key: ca.crt, path: ca.crt}]
      - downwardAPI:
          items: [{path: namespace, fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}]
{{- end }}
{{- range $secret, $mount := .Values.secretMounts }}
- name: {{ include "token-sidecar.secretVolume" (tpl $secret $) }}
  secret:
    secretName: {{ tpl $secret $ | quote }}
    {{- if kindIs "map" $mount }}
    {{- with omit $mount "mountPath" }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- end }}
{{- end }}
{{- range $volume, $source := .Values.extraVolumes }}
- {{ toYaml (merge (dict "name" $volume) $source) | indent 2 | trim }}
{{- end }}
{{- end -}}

{{/* File outputs of the configuration, one path a line; a token's own list replaces the default one. */}}
{{- define "token-sidecar.files" -}}
{{- $defaults := .Values.config.defaults | default dict -}}
{{- range $name, $own := .Values.config.tokens -}}
{{- $token := $own | default dict -}}
{{- range ternary $token.outputs $defaults.outputs (hasKey $token "outputs") -}}
{{- with .file }}
{{ . }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The commonest mistake: a file that the application can't see, or that no container may write. */}}
{{- define "token-sidecar.checkFiles" -}}
{{- $directories := list .Values.tokensDirectory -}}
{{- range .Values.extraVolumeMounts -}}
{{- $directories = append $directories .mountPath -}}
{{- end -}}
{{- range $file := splitList "\n" (include "token-sidecar.files" . | trim) -}}
{{- $found := or (not $file) (contains "$" $file) -}}
{{- range $directories -}}
{{- $found = or $found (hasPrefix (printf "%s/" (trimSuffix "/" .)) $file) -}}
{{- end -}}
{{- if not $found -}}
{{- fail (printf "%s.config: no volume is mounted where output %s is; write it below tokensDirectory (%s), or mount one with extraVolumes and extraVolumeMounts" $.Chart.Name $file $.Values.tokensDirectory) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "token-sidecar.own.notes" -}}
{{- $pod := "POD" -}}
{{- $exec := printf "kubectl exec --namespace %s %s --container token-sidecar -- token-sidecar" .Release.Namespace $pod -}}
token-sidecar keeps {{ keys ((.Values.config).tokens | default dict) | sortAlpha | join ", " | default "no token yet: say which in `config.tokens`" }} fresh in {{ include "token-sidecar.appDirectory" . }}.

A token that has no refresh token yet holds its pod back until somebody gives it one
{{- if .Values.native }}. Consent to it in a browser, and paste
back the address that it ends at (POD is a pod's name):
{{- range keys ((.Values.config).tokens | default dict) | sortAlpha }}

  kubectl exec --namespace {{ $.Release.Namespace }} --stdin --tty {{ $pod }} --container token-sidecar -- token-sidecar login {{ . }} --no-browser
{{- end }}

Or hand over a refresh token that you have: kubectl exec --stdin …, and token-sidecar seed NAME < refresh-token.json.
{{- else }}. Put it where the token's `seed` is:
the init container token-sidecar-once fails meanwhile, and is started again and again.
{{- end }}

How it is doing, and whether it is set up right:

  {{ $exec }} status
  {{ $exec }} doctor
{{- if (.Values.test).enabled }}
  helm test {{ .Release.Name }} --namespace {{ .Release.Namespace }}
{{- end }}

What the probes mean:

  startup    fails until every required token is in its file; the application waits, and so does a rollout
  readiness  fails once a token in its file has expired
  liveness   fails when the daemon hangs, or a grant has been dead for longer than its grace: somebody has to consent
             again. The reason and the command are the container's last words: kubectl describe pod POD
{{- if not .Values.native }}

With native: false the startup probe holds nobody back; token-sidecar-once does. A Job that includes
token-sidecar.containers never completes.
{{- end }}
{{- if include "token-sidecar.usesApi" . }}

The sidecar calls the Kubernetes API as ServiceAccount {{ include "token-sidecar.own.serviceAccountName" . }}. Set automountServiceAccountToken: false in
the pod, so that no other container of it gets a token.
{{- end }}
{{- end -}}
