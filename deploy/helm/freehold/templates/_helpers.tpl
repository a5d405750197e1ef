{{- define "freehold.name" -}}
{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "freehold.labels" -}}
app.kubernetes.io/name: freehold
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* What picks the pods of a part of this release: "counter" or "vllm". */}}
{{- define "freehold.selector" -}}
app.kubernetes.io/name: freehold
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{/* Refuse what would start and not work. */}}
{{- define "freehold.check" -}}
{{- if not .Values.image.name }}{{ fail "image.name is empty: name an image of your registry" }}{{ end }}
{{- if and (gt (int .Values.replicas) 1) (not .Values.database.url) }}
{{- fail "more than one replica needs database.url: counters share keys and the ledger there" }}
{{- end }}
{{- if not (or .Values.database.url .Values.home.claim) }}
{{- fail "name database.url or home.claim: keys and ledger would end with the pod" }}
{{- end }}
{{- if and .Values.database.url (not .Values.database.to) }}
{{- fail "database.to is empty: name who the network policy lets pods reach" }}
{{- end }}
{{- if and .Values.telemetry.traces (not .Values.telemetry.to) }}
{{- fail "telemetry.to is empty: name who the network policy lets pods reach" }}
{{- end }}
{{- if and .Values.tls.clientCa (not .Values.tls.secret) }}
{{- fail "tls.clientCa needs tls.secret" }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled (not .Values.serviceMonitor.keySecret) }}
{{- fail "serviceMonitor.keySecret is empty: /metrics asks for a key" }}
{{- end }}
{{- if .Values.vllm.enabled }}
{{- if not (and .Values.vllm.image .Values.vllm.model .Values.vllm.name) }}
{{- fail "vllm needs image, model and name" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "freehold.scheme" -}}
{{ if .Values.tls.secret }}HTTPS{{ else }}HTTP{{ end }}
{{- end }}

{{/* How kubelet asks whether a pod answers: it has no client certificate to show. */}}
{{- define "freehold.probe" -}}
{{- if .Values.tls.clientCa -}}
tcpSocket:
  port: http
{{- else -}}
httpGet:
  path: /health
  port: http
  scheme: {{ include "freehold.scheme" . }}
{{- end }}
{{- end }}

{{/* No user is root, nothing is written, no power is kept. */}}
{{- define "freehold.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
