{{- define "registry-admin.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end -}}
{{- end }}

{{- define "registry-admin.selector" -}}
app.kubernetes.io/name: registry-admin
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "registry-admin.labels" -}}
{{ include "registry-admin.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "registry-admin.serviceAccount" -}}
{{- if .Values.serviceAccount.name }}{{ .Values.serviceAccount.name }}
{{- else if .Values.serviceAccount.create }}{{ include "registry-admin.name" . }}
{{- else }}default{{ end -}}
{{- end }}

{{- /* The pod of every process; its arguments are role (web, worker, events, migrate) and root (the chart's context). */ -}}
{{- define "registry-admin.pod" -}}
{{- $role := .role }}
{{- with .root }}
metadata:
  labels:
    {{- include "registry-admin.labels" . | nindent 4 }}
    app.kubernetes.io/component: {{ $role }}
  {{- with .Values.podAnnotations }}
  annotations: {{ toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- if eq $role "migrate" }}
  restartPolicy: Never
  {{- else }}
  serviceAccountName: {{ include "registry-admin.serviceAccount" . }}
  {{- end }}
  automountServiceAccountToken: false   # the token for AWS is another volume, which EKS adds
  terminationGracePeriodSeconds: 40     # preStop takes 5 seconds, and gunicorn ends its requests within 30
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    seccompProfile: {type: RuntimeDefault}
  containers:
    - name: {{ $role }}
      image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [{{ $role }}]
      env:
        - {name: CONFIGURATION_GENERATION, value: {{ .Release.Revision | quote }}}
        {{- range .Values.secret.keys }}
        - {name: {{ . }}_FILE, value: /run/secrets/registry-admin/{{ . }}}
        {{- end }}
        {{- range $name, $value := .Values.settings }}
        - name: {{ $name }}
          value: {{ $value | quote }}
        {{- end }}
      {{- if eq $role "web" }}
      ports:
        - {name: http, containerPort: 8000}
      startupProbe:
        httpGet: {path: /healthz, port: http}
        periodSeconds: 2
        failureThreshold: 60
      readinessProbe:
        httpGet: {path: /readyz, port: http}
        periodSeconds: 5
        timeoutSeconds: 4
        failureThreshold: 2
      livenessProbe:
        httpGet: {path: /healthz, port: http}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      lifecycle:   # until the last node knows that this pod ends, requests still come
        preStop: {exec: {command: [sleep, "5"]}}
      {{- else if ne $role "migrate" }}
      livenessProbe:
        exec: {command: [registry-admin, {{ $role }}, --check]}
        initialDelaySeconds: 60
        periodSeconds: 60
        timeoutSeconds: 20
        failureThreshold: 5
      {{- end }}
      {{- with (index .Values $role) }}
      resources: {{ toYaml .resources | nindent 8 }}
      {{- end }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: secrets, mountPath: /run/secrets/registry-admin, readOnly: true}
        - {name: tmp, mountPath: /tmp}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: secrets
      secret:
        secretName: {{ .Values.secret.name }}
        defaultMode: 0440
        items:
          {{- range .Values.secret.keys }}
          - {key: {{ . }}, path: {{ . }}}
          {{- end }}
    - name: tmp
      emptyDir: {sizeLimit: 256Mi}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- range $name := list "nodeSelector" "tolerations" "affinity" }}
  {{- with index $.root.Values $name }}
  {{ $name }}: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
{{- end }}
{{- end }}
