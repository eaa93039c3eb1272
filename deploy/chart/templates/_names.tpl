{{/* `wharf` in a release called wharf; else the release's name is in front. */}}
{{- define "wharf.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains "wharf" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-wharf" (.Release.Name | trunc 34 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/* Called with (list $ "controller" or "node"). */}}
{{- define "wharf.selector" -}}
app.kubernetes.io/name: wharf
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "wharf.labels" -}}
app.kubernetes.io/name: wharf
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "wharf.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "wharf.controllerAccount" -}}
{{ include "wharf.fullname" . }}-controller
{{- end -}}

{{- define "wharf.nodeAccount" -}}
{{ include "wharf.fullname" . }}-node
{{- end -}}

{{/* Whether snapshots are wanted: "true" or "". */}}
{{- define "wharf.snapshots" -}}
{{- if eq (toString .Values.snapshots.enabled) "auto" -}}
{{- if .Capabilities.APIVersions.Has "snapshot.storage.k8s.io/v1" }}true{{ end -}}
{{- else if .Values.snapshots.enabled -}}
true
{{- end -}}
{{- end -}}

{{/* The directory of this driver's socket, on the host and in the node's container. */}}
{{- define "wharf.pluginDir" -}}
{{ .Values.kubeletDir }}/plugins/{{ .Values.driverName }}
{{- end -}}

{{/* What a sidecar's leader election calls its Lease: as csi-lib-utils makes a name of the driver's. */}}
{{- define "wharf.leaseSuffix" -}}
{{ regexReplaceAll "[^a-zA-Z0-9-]" .Values.driverName "-" }}
{{- end -}}

{{/* What a schema cannot say. */}}
{{- define "wharf.check" -}}
{{- $socket := printf "%s/csi.sock" (include "wharf.pluginDir" .) -}}
{{- if gt (len $socket) 107 -}}
{{- fail (printf "kubeletDir, driverName: a socket's path may have 107 bytes, and %s has %d" $socket (len $socket)) -}}
{{- end -}}
{{- $paths := list -}}
{{- $names := list -}}
{{- range .Values.pools -}}
{{- if has .name $names -}}
{{- fail (printf "pools: %q is given twice: give each pool a name of its own" .name) -}}
{{- end -}}
{{- $path := .path -}}
{{- range $paths -}}
{{- if or (hasPrefix (printf "%s/" .) (printf "%s/" $path)) (hasPrefix (printf "%s/" $path) (printf "%s/" .)) -}}
{{- fail (printf "pools: %s and %s lie in each other: give each its own directory" . $path) -}}
{{- end -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- $paths = append $paths $path -}}
{{- end -}}
{{- end -}}

{{/* Environment of both roles. */}}
{{- define "wharf.environment" -}}
- {name: WHARF_DRIVER_NAME, value: {{ .Values.driverName | quote }}}
- {name: WHARF_MOUNT_TIMEOUT, value: {{ .Values.mountTimeout | quote }}}
- {name: WHARF_LOG_FORMAT, value: {{ .Values.log.format | quote }}}
- {name: WHARF_LOG_LEVEL, value: {{ .Values.log.level | quote }}}
- name: WHARF_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
{{- end -}}

{{/* The Probe RPC through the socket: no port, no other container. It writes nothing and asks no server. */}}
{{- define "wharf.probes" -}}
# 10,000 volumes take a start about 2 s.
startupProbe:
  exec: {command: [/wharf, probe]}
  periodSeconds: 2
  timeoutSeconds: 10
  failureThreshold: 60
livenessProbe:
  exec: {command: [/wharf, probe]}
  periodSeconds: 30
  timeoutSeconds: 10
  failureThreshold: 3
{{- end -}}

{{/* For containers that only speak to the API server and to the driver's socket, which admits no other user than root. */}}
{{- define "wharf.confined" -}}
securityContext:
  runAsUser: 0
  runAsGroup: 0
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Called with (list $ port). */}}
{{- define "wharf.metricsAddress" -}}
{{- $address := (index . 0).Values.metrics.address -}}
{{- if contains ":" $address }}[{{ $address }}]{{ else }}{{ $address }}{{ end }}:{{ index . 1 }}
{{- end -}}

{{/* One of the stock containers. Called with (list $ name image settings). Its flags and environment follow. */}}
{{- define "wharf.sidecar" -}}
{{- $root := index . 0 -}}
{{- $settings := index . 3 -}}
- name: {{ index . 1 }}
  image: {{ $root.Values.sidecars.registry }}/{{ index . 2 }}:{{ $settings.tag }}
  imagePullPolicy: {{ $root.Values.sidecars.pullPolicy }}
  {{- include "wharf.confined" $root | nindent 2 }}
  {{- with $settings.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
