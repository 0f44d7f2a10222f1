{{- define "optiinfra.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* Name of what is not namespaced: two releases of one name in different namespaces must not meet. */}}
{{- define "optiinfra.clusterName" -}}
{{- printf "%s:%s" .Release.Namespace (include "optiinfra.name" .) -}}
{{- end -}}

{{- define "optiinfra.labels" -}}
app.kubernetes.io/name: optiinfra
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Selector labels of a component: (dict "root" $ "component" "operator") */}}
{{- define "optiinfra.selector" -}}
app.kubernetes.io/name: optiinfra
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Image reference: (dict "root" $ "image" .Values.image) */}}
{{- define "optiinfra.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "optiinfra.agentNamespace" -}}
{{- if .Values.agent.namespace -}}
{{- .Values.agent.namespace -}}
{{- else if eq (int .Values.agent.tier) 0 -}}
{{- .Release.Namespace -}}
{{- else -}}
{{- printf "%s-agent" (.Release.Namespace | trunc 57 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{- define "optiinfra.tlsSecret" -}}
{{- .Values.externalMetrics.tls.secretName | default (printf "%s-external-metrics" (include "optiinfra.name" .)) -}}
{{- end -}}

{{- define "optiinfra.kedaSecret" -}}
{{- .Values.kedaScaler.tls.secretName | default (printf "%s-keda-scaler" (include "optiinfra.name" .)) -}}
{{- end -}}

{{/* What no schema can say: values that do not go together. */}}
{{- define "optiinfra.check" -}}
{{- $namespaced := eq .Values.scope "Namespaces" -}}
{{- if and $namespaced (not .Values.watchNamespaces) -}}
{{- fail "watchNamespaces is empty: scope Namespaces needs at least one namespace" -}}
{{- end -}}
{{- if and (not $namespaced) .Values.watchNamespaces -}}
{{- fail "watchNamespaces has no effect with scope Cluster: set scope to Namespaces or remove it" -}}
{{- end -}}
{{- if and .Values.actuation.namespaces (not .Values.actuation.enabled) -}}
{{- fail "actuation.namespaces has no effect without actuation.enabled" -}}
{{- end -}}
{{- if and .Values.actuation.resize (not .Values.actuation.enabled) -}}
{{- fail "actuation.resize has no effect without actuation.enabled" -}}
{{- end -}}
{{- if $namespaced -}}
{{- range .Values.actuation.namespaces -}}
{{- if not (has . $.Values.watchNamespaces) -}}
{{- fail (printf "actuation.namespaces names %s, which is not in watchNamespaces" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.modelConfigMaps.namespaces (not .Values.modelConfigMaps.enabled) -}}
{{- fail "modelConfigMaps.namespaces has no effect without modelConfigMaps.enabled" -}}
{{- end -}}
{{- if $namespaced -}}
{{- range .Values.modelConfigMaps.namespaces -}}
{{- if not (has . $.Values.watchNamespaces) -}}
{{- fail (printf "modelConfigMaps.namespaces names %s, which is not in watchNamespaces" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.prices.prometheusTokenSecretName (not .Values.prices.prometheusUrl) -}}
{{- fail "prices.prometheusTokenSecretName has no effect without prices.prometheusUrl" -}}
{{- end -}}
{{- with .Values.metricsServer -}}
{{- if and (not .url) (or .tokenSecretName .basicAuthSecretName .caSecretName .certificateSecretName .tenant) -}}
{{- fail "metricsServer: Secrets and tenant have no effect without metricsServer.url, which they are for" -}}
{{- end -}}
{{- if and .tokenSecretName .basicAuthSecretName -}}
{{- fail "metricsServer takes tokenSecretName or basicAuthSecretName, not both" -}}
{{- end -}}
{{- if and (or .caSecretName .certificateSecretName) (not (hasPrefix "https://" .url)) -}}
{{- fail "metricsServer: caSecretName and certificateSecretName need an address that begins with https://" -}}
{{- end -}}
{{- end -}}
{{- if and $namespaced .Values.externalMetrics.enabled -}}
{{- fail "externalMetrics.enabled needs scope Cluster: it is one API for the whole cluster" -}}
{{- end -}}
{{- if and .Values.externalMetrics.enabled (eq (int .Values.externalMetrics.port) (int .Values.service.httpPort)) -}}
{{- fail "externalMetrics.port and service.httpPort must differ" -}}
{{- end -}}
{{- if and .Values.kedaScaler.enabled (or (eq (int .Values.kedaScaler.port) (int .Values.service.httpPort)) (and .Values.externalMetrics.enabled (eq (int .Values.kedaScaler.port) (int .Values.externalMetrics.port)))) -}}
{{- fail "kedaScaler.port must differ from service.httpPort and externalMetrics.port" -}}
{{- end -}}
{{- if and .Values.kedaScaler.tls.secretName .Values.kedaScaler.tls.issuerRef -}}
{{- fail "kedaScaler.tls takes secretName or issuerRef, not both" -}}
{{- end -}}
{{- if and .Values.kedaScaler.tls.issuerRef (not .Values.kedaScaler.tls.issuerRef.name) -}}
{{- fail "kedaScaler.tls.issuerRef needs the name of an Issuer or ClusterIssuer" -}}
{{- end -}}
{{- if and .Values.insights.enabled (not .Values.insights.secretName) -}}
{{- fail "insights.secretName is empty: insights.enabled needs a Secret with the key api-key" -}}
{{- end -}}
{{- if and (gt (int .Values.agent.intervalSeconds) 20) (not (hasKey .Values.operator.environment "OPTIINFRA_STALE_AFTER_SECONDS")) -}}
{{- fail "agent.intervalSeconds above 20 makes snapshots older than the operator believes: set operator.environment.OPTIINFRA_STALE_AFTER_SECONDS to three times as much" -}}
{{- end -}}
{{- if and .Values.agent.kubeletMetrics.enabled .Values.agent.containerUsage (gt (int .Values.agent.tier) 0) -}}
{{- fail "agent.kubeletMetrics.enabled has no effect beside agent.containerUsage from tier 1 on: cgroups say more, so switch one of them off" -}}
{{- end -}}
{{- $tls := .Values.externalMetrics.tls -}}
{{- if ne (empty $tls.secretName) (empty $tls.caBundle) -}}
{{- fail "externalMetrics.tls needs secretName and caBundle (the CA that signed its certificate), or neither" -}}
{{- end -}}
{{- if ne (eq .Values.service.type "ExternalName") (not (empty .Values.service.externalName)) -}}
{{- fail "service.externalName is needed with service.type ExternalName, and has no effect with another" -}}
{{- end -}}
{{- end -}}

{{/* Restricted profile of every container of ours. */}}
{{- define "optiinfra.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "optiinfra.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Tier 0 is the restricted profile. From tier 1 on uid 0, which the kubelet's socket asks for, and nothing with it. */}}
{{- define "optiinfra.agentPodSecurity" -}}
{{- if eq (int .Values.agent.tier) 0 -}}
{{ include "optiinfra.podSecurity" . }}
{{- else -}}
runAsUser: 0
runAsGroup: 0
seccompProfile: {type: RuntimeDefault}
{{- end -}}
{{- end -}}

{{- define "optiinfra.agentContainerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
{{- if lt (int .Values.agent.tier) 3 }}
capabilities: {drop: [ALL]}
{{- else }}
capabilities: {drop: [ALL], add: [SYS_ADMIN]}
{{- end }}
{{- end -}}

{{/* Settings of the operator that come from values. */}}
{{- define "optiinfra.operatorEnvironment" -}}
- {name: OPTIINFRA_SCOPE, value: {{ .Values.scope }}}
{{- if eq .Values.scope "Namespaces" }}
- {name: OPTIINFRA_WATCH_NAMESPACES, value: {{ join "," .Values.watchNamespaces | quote }}}
{{- end }}
- {name: OPTIINFRA_LOG_LEVEL, value: {{ .Values.operator.logLevel }}}
- {name: OPTIINFRA_ACTUATION_ENABLED, value: {{ .Values.actuation.enabled | quote }}}
- {name: OPTIINFRA_RESIZE_ENABLED, value: {{ .Values.actuation.resize | quote }}}
- {name: OPTIINFRA_LEASE_NAME, value: {{ include "optiinfra.name" . }}-operator}
- {name: OPTIINFRA_CONTROL_CONFIG_MAP, value: {{ include "optiinfra.name" . }}-control}
- {name: OPTIINFRA_HTTP_PORT, value: {{ .Values.service.httpPort | quote }}}
- {name: OPTIINFRA_PROXY_TOKEN_FILE, value: /var/run/secrets/optiinfra/token}
- {name: OPTIINFRA_AGENT_PORT, value: {{ .Values.agent.port | quote }}}
- {name: OPTIINFRA_AGENT_INTERVAL_SECONDS, value: {{ .Values.agent.intervalSeconds | quote }}}
- {name: OPTIINFRA_AGENT_SELECTOR, value: "app.kubernetes.io/instance={{ .Release.Name }},app.kubernetes.io/component=agent"}
- {name: OPTIINFRA_AGENT_NAMESPACE, value: {{ include "optiinfra.agentNamespace" . }}}
{{- if .Values.agent.tokenSecretName }}
- {name: OPTIINFRA_AGENT_TOKEN_FILE, value: /etc/optiinfra/agent/token}
{{- end }}
{{- if .Values.agent.tls.secretName }}
- {name: OPTIINFRA_AGENT_TLS_CA_FILE, value: /etc/optiinfra/agent-tls/ca.crt}
{{- if .Values.agent.tls.clientCertificates }}
- {name: OPTIINFRA_AGENT_TLS_CERTIFICATE_FILE, value: /etc/optiinfra/agent-tls/tls.crt}
- {name: OPTIINFRA_AGENT_TLS_KEY_FILE, value: /etc/optiinfra/agent-tls/tls.key}
{{- end }}
{{- end }}
- {name: OPTIINFRA_EXTERNAL_METRICS_ENABLED, value: {{ .Values.externalMetrics.enabled | quote }}}
{{- if .Values.externalMetrics.enabled }}
- {name: OPTIINFRA_EXTERNAL_METRICS_PORT, value: {{ .Values.externalMetrics.port | quote }}}
- {name: OPTIINFRA_EXTERNAL_METRICS_SERVICE, value: {{ include "optiinfra.name" . }}-operator}
- {name: OPTIINFRA_TLS_CERTIFICATE_FILE, value: /etc/optiinfra/tls/tls.crt}
- {name: OPTIINFRA_TLS_KEY_FILE, value: /etc/optiinfra/tls/tls.key}
{{- end }}
{{- if .Values.kedaScaler.enabled }}
- {name: OPTIINFRA_KEDA_SCALER_ENABLED, value: "true"}
- {name: OPTIINFRA_KEDA_SCALER_PORT, value: {{ .Values.kedaScaler.port | quote }}}
- {name: OPTIINFRA_KEDA_CERTIFICATE_FILE, value: /etc/optiinfra/keda/tls.crt}
- {name: OPTIINFRA_KEDA_KEY_FILE, value: /etc/optiinfra/keda/tls.key}
{{- if .Values.kedaScaler.tls.clientCertificates }}
- {name: OPTIINFRA_KEDA_CLIENT_CA_FILE, value: /etc/optiinfra/keda/ca.crt}
{{- end }}
{{- end }}
- {name: OPTIINFRA_LLM_ENABLED, value: {{ .Values.insights.enabled | quote }}}
{{- if .Values.insights.enabled }}
- {name: OPTIINFRA_LLM_ENDPOINT, value: {{ .Values.insights.endpoint | quote }}}
- {name: OPTIINFRA_LLM_PATH, value: {{ .Values.insights.path | quote }}}
{{- with .Values.insights.proxy }}
- {name: OPTIINFRA_LLM_PROXY, value: {{ . | quote }}}
{{- end }}
- {name: OPTIINFRA_LLM_MODEL, value: {{ .Values.insights.model | quote }}}
- {name: OPTIINFRA_LLM_KEY_FILE, value: /etc/optiinfra/insights/api-key}
{{- end }}
{{- with .Values.prices.configMap }}
- {name: OPTIINFRA_PRICE_CONFIG_MAP, value: {{ . }}}
{{- end }}
{{- with .Values.prices.opencostUrl }}
- {name: OPTIINFRA_OPENCOST_URL, value: {{ . | quote }}}
{{- end }}
{{- with .Values.prices.prometheusUrl }}
- {name: OPTIINFRA_PRICE_PROMETHEUS_URL, value: {{ . | quote }}}
{{- end }}
{{- if .Values.prices.prometheusTokenSecretName }}
- {name: OPTIINFRA_PRICE_PROMETHEUS_TOKEN_FILE, value: /etc/optiinfra/prices/token}
{{- end }}
{{- with .Values.metricsServer }}
{{- if .url }}
- {name: OPTIINFRA_PROMETHEUS_URL, value: {{ .url | quote }}}
{{- if .tokenSecretName }}
- {name: OPTIINFRA_PROMETHEUS_TOKEN_FILE, value: /etc/optiinfra/metrics-server/token}
{{- end }}
{{- if .basicAuthSecretName }}
- name: OPTIINFRA_PROMETHEUS_USER
  valueFrom: {secretKeyRef: {name: {{ .basicAuthSecretName }}, key: username}}
- {name: OPTIINFRA_PROMETHEUS_PASSWORD_FILE, value: /etc/optiinfra/metrics-server/password}
{{- end }}
{{- if .caSecretName }}
- {name: OPTIINFRA_PROMETHEUS_CA_FILE, value: /etc/optiinfra/metrics-server/ca.crt}
{{- end }}
{{- if .certificateSecretName }}
- {name: OPTIINFRA_PROMETHEUS_CERTIFICATE_FILE, value: /etc/optiinfra/metrics-server/tls.crt}
- {name: OPTIINFRA_PROMETHEUS_KEY_FILE, value: /etc/optiinfra/metrics-server/tls.key}
{{- end }}
{{- with .tenant }}
- {name: OPTIINFRA_PROMETHEUS_TENANT, value: {{ . | quote }}}
{{- end }}
{{- end }}
{{- with .matchers }}
- {name: OPTIINFRA_PROMETHEUS_MATCHERS, value: {{ . | quote }}}
{{- end }}
- {name: OPTIINFRA_PROMETHEUS_NAMESPACE_LABEL, value: {{ .namespaceLabel }}}
- {name: OPTIINFRA_PROMETHEUS_POD_LABEL, value: {{ .podLabel }}}
- {name: OPTIINFRA_PROMETHEUS_HISTORY_DAYS, value: {{ .historyDays | quote }}}
{{- end }}
- {name: OPTIINFRA_PRICE_CURRENCY, value: {{ .Values.prices.currency }}}
- {name: OPTIINFRA_DRA_ENABLED, value: {{ .Values.claims.enabled | quote }}}
- {name: OPTIINFRA_LIST_PRICES_ENABLED, value: {{ .Values.prices.listPrices | quote }}}
{{- range $key, $value := .Values.operator.environment }}
- {name: {{ $key }}, value: {{ $value | quote }}}
{{- end }}
{{- end -}}
