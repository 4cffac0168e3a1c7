{{- define "ew.name" -}}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{- end -}}

{{- define "ew.labels" -}}
app.kubernetes.io/name: emberwatch
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "ew.select" -}}
app.kubernetes.io/name: emberwatch
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "ew.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default (printf "%s%s" .Chart.AppVersion (ternary "-cuda" "" .Values.gpu.enabled)) }}
{{- end -}}

{{- define "ew.storeSecret" -}}
{{- if .Values.store.existingSecret }}{{ .Values.store.existingSecret }}
{{- else if .Values.store.url }}{{ include "ew.name" . }}-store
{{- else }}{{ fail "set store.url or store.existingSecret: workers in a cluster share one Redis" }}{{ end -}}
{{- end -}}

{{- define "ew.keysSecret" -}}
{{- if .Values.keys.existingSecret }}{{ .Values.keys.existingSecret }}
{{- else if .Values.keys.json }}{{ include "ew.name" . }}-keys
{{- else }}{{ fail "set keys.json or keys.existingSecret: beyond loopback the service wants API keys (emberwatch keys create)" }}{{ end -}}
{{- end -}}

{{- define "ew.locked" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
