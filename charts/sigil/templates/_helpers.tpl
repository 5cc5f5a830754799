{{- define "sigil.labels" -}}
app.kubernetes.io/name: sigil-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "sigil.selector" -}}
app.kubernetes.io/name: sigil-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* The image as it is given, or with the chart's appVersion when it has no tag or digest. */ -}}
{{- define "sigil.operatorImage" -}}
{{- $image := .Values.operator.image -}}
{{- if or (contains "@" $image) (contains ":" (last (splitList "/" $image))) -}}
{{ $image }}
{{- else -}}
{{ $image }}:{{ .Chart.AppVersion }}
{{- end -}}
{{- end }}
