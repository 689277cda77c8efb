{{/*
What the configuration makes the daemon ask of Kubernetes, by namespace and kind of use:

  basketball-api: {state: [prefix-gmail], outputs: [gmail-oauth], seeds: […], deployments: […], …}

Everything that needs permission, a token or a Secret is rendered from this one table. The scope is the chart's own.
*/}}
{{- define "token-sidecar.access" -}}
{{- $config := .Values.config | default dict -}}
{{- $uses := list -}}
{{- $store := $config.store | default "" -}}
{{- $url := ternary $store (get (kindIs "map" $store | ternary $store dict) "url") (kindIs "string" $store) -}}
{{- $defaults := $config.defaults | default dict -}}
{{- range $name, $own := $config.tokens | default dict -}}
{{- /* A token's own key replaces the default whole, which is not what merge does. */ -}}
{{- $token := omit $defaults -}}
{{- range $key, $value := $own | default dict -}}
{{- $token = set $token $key $value -}}
{{- end -}}
{{- $place := printf "%s.config.tokens.%s" $.Chart.Name $name -}}
{{- if hasPrefix "kubernetes:" $url -}}
{{- $uses = append $uses (dict "kind" "state" "place" (printf "%s.config.store" $.Chart.Name) "store" $url "token" $name) -}}
{{- end -}}
{{- range $token.outputs -}}
{{- with .kubernetes_secret -}}
{{- $uses = append $uses (dict "kind" "outputs" "place" $place "namespace" .namespace "name" .name) -}}
{{- end -}}
{{- end -}}
{{- if kindIs "map" $token.seed -}}
{{- with $token.seed.kubernetes_secret -}}
{{- $uses = append $uses (dict "kind" "seeds" "place" $place "namespace" .namespace "name" .name) -}}
{{- end -}}
{{- end -}}
{{- range $token.after_refresh -}}
{{- with .rollout_restart -}}
{{- $restart := . -}}
{{- range $kind := list "deployment" "statefulset" "daemonset" -}}
{{- with index $restart $kind -}}
{{- $uses = append $uses (dict "kind" (printf "%ss" $kind) "place" $place "namespace" $restart.namespace "name" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $table := dict -}}
{{- range $use := $uses -}}
{{- $namespace := $use.namespace | default "${POD_NAMESPACE}" -}}
{{- $name := $use.name -}}
{{- if $use.store -}}
{{- $url := replace "${POD_NAMESPACE}" $.Release.Namespace $use.store -}}
{{- if not (regexMatch "^kubernetes://[a-z0-9-]+/[a-z0-9][a-z0-9.-]*$" $url) -}}
{{- fail (printf "%s: %s is no kubernetes://NAMESPACE/PREFIX; the chart renders RBAC for it, and knows no variable but ${POD_NAMESPACE}" $use.place $use.store) -}}
{{- end -}}
{{- $parts := splitList "/" (trimPrefix "kubernetes://" $url) -}}
{{- $namespace = first $parts -}}
{{- $name = include "token-sidecar.stateSecret" (list (last $parts) $use.token) -}}
{{- end -}}
{{- $namespace = replace "${POD_NAMESPACE}" $.Release.Namespace $namespace -}}
{{- $name = replace "${POD_NAMESPACE}" $.Release.Namespace $name -}}
{{- if contains "$" (print $namespace $name) -}}
{{- fail (printf "%s: the chart renders RBAC for %s/%s, and knows no variable but ${POD_NAMESPACE}; write the name" $use.place $namespace $name) -}}
{{- end -}}
{{- $uses := get $table $namespace | default dict -}}
{{- $names := append (get $uses $use.kind | default list) $name | uniq | sortAlpha -}}
{{- $table = set $table $namespace (set $uses $use.kind $names) -}}
{{- end -}}
{{- toYaml $table -}}
{{- end -}}

{{/* The name of a token's state Secret: (list prefix token). The daemon computes the same (sidecar/stores/kubernetes.py). */}}
{{- define "token-sidecar.stateSecret" -}}
{{- $prefix := index . 0 -}}
{{- $token := index . 1 -}}
{{- if regexMatch "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$" $token -}}
{{- printf "%s-%s" $prefix $token -}}
{{- else -}}
{{- printf "%s-%s-%s" $prefix (regexReplaceAll "[^a-z0-9]+" (lower $token) "-") (sha256sum $token | trunc 8) -}}
{{- end -}}
{{- end -}}

{{/* Not empty if the sidecar gets the account's token. */}}
{{- define "token-sidecar.usesApi" -}}
{{- $mount := (.Values.serviceAccountToken).mount | default "auto" -}}
{{- if eq $mount "always" -}}
yes
{{- else if and (eq $mount "auto") (include "token-sidecar.access" . | fromYaml) -}}
yes
{{- end -}}
{{- end -}}
