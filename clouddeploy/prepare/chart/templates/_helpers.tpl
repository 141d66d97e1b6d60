{{/* What is common to all objects; the manifests of `clouddeploy prepare` have the same. */}}
{{- define "clouddeploy.selector" -}}
app.kubernetes.io/component: parent
app.kubernetes.io/instance: {{ .Release.Name }}
clouddeploy/project: {{ .Values.participant.project }}
clouddeploy/site: {{ .Values.participant.site }}
{{- end }}

{{- define "clouddeploy.labels" -}}
{{ include "clouddeploy.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "clouddeploy.jobs" -}}
app.kubernetes.io/component: job
clouddeploy/project: {{ .Values.participant.project }}
clouddeploy/site: {{ .Values.participant.site }}
{{- end }}

{{- define "clouddeploy.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- end -}}
{{- end }}

{{- define "clouddeploy.account" -}}
{{ .Values.serviceAccount.name | default .Values.name }}
{{- end }}

{{- define "clouddeploy.lastPort" -}}
{{ sub (add .Values.parentPort .Values.parentPorts) 1 }}
{{- end }}

{{- define "clouddeploy.jobPorts" -}}
- port: {{ .Values.parentPort }}
  endPort: {{ include "clouddeploy.lastPort" . }}
  protocol: TCP
{{- end }}
