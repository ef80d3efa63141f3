{{- define "callgate.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "callgate.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end -}}

{{- define "callgate.commonLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: callgate
{{- end -}}

{{- define "callgate.labels" -}}
{{ include "callgate.selectorLabels" . }}
{{ include "callgate.commonLabels" . }}
{{- end -}}

{{- define "callgate.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "callgate.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "callgate.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "callgate.podSecurityContext" -}}
runAsNonRoot: true
{{- with .Values.securityContext }}
{{- if .runAsUser }}
runAsUser: {{ int64 .runAsUser }}
{{- end }}
{{- if .runAsGroup }}
runAsGroup: {{ int64 .runAsGroup }}
{{- end }}
{{- if .fsGroup }}
fsGroup: {{ int64 .fsGroup }}
{{- end }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "callgate.containerSecurityContext" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* preStop, then the drain of open streams, then a margin: longer than each, so that nothing is cut by SIGKILL. */}}
{{- define "callgate.gracePeriod" -}}
{{- $drain := dig "server" "drain_s" 30 .Values.config -}}
{{- add .Values.shutdown.preStopSeconds (int (ceil $drain)) .Values.shutdown.marginSeconds -}}
{{- end -}}

{{/* One egress rule, or nothing: a rule without peers would mean every address. */}}
{{- define "callgate.egressRule" -}}
{{- if and .to .ports }}
- to:
    {{- toYaml .to | nindent 4 }}
  ports:
    {{- range .ports }}
    - protocol: TCP
      port: {{ int . }}
    {{- end }}
{{- end }}
{{- end -}}

{{/* Mistakes that would only show as a crash loop. */}}
{{- define "callgate.check" -}}
{{- $known := list "CALLGATE_KEY_SECRET" -}}
{{- range .Values.secrets.providers }}{{ $known = append $known .env }}{{ end -}}
{{- range $name, $_ := .Values.env }}{{ $known = append $known $name }}{{ end -}}
{{- if not (dig "models" list .Values.config) -}}
{{- fail "config.models is empty: name at least one model and where it is served" -}}
{{- end -}}
{{- range $model := .Values.config.models -}}
{{- range $deployment := $model.deployments -}}
{{- with $deployment.api_key_env -}}
{{- if not (has . $known) -}}
{{- fail (printf "config.models: deployment %s takes its key from %s, which no entry of secrets.providers sets" $deployment.name .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if eq (dig "auth" "keys" .Values.config) "none" -}}
{{- fail "config.auth: none is only for a gateway on loopback; in a cluster use keys" -}}
{{- end -}}
{{- if and .Values.evals.enabled (not .Values.evals.results.existingClaim) -}}
{{- fail "evals.results.existingClaim: name a claim that all pods of the run can write (ReadWriteMany)" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.enabled: needs at least one entry in ingress.hosts" -}}
{{- end -}}
{{- end -}}
