{{- /* The labels that select the operator's pods, for ever. */ -}}
{{- define "selector" -}}
app.kubernetes.io/name: aligntune-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- /* The pod of `helm test`. */ -}}
{{- define "test.selector" -}}
app.kubernetes.io/name: aligntune-operator-test
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "labels" -}}
{{ include "selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "pod.labels" -}}
{{ include "labels" . }}
{{ include "mesh.labels" . }}
{{- end -}}

{{- define "pod.annotations" -}}
kubectl.kubernetes.io/default-container: operator
{{ include "mesh.annotations" . }}
{{- end -}}

{{- /* Where the pods of the chart run, and how they get there. */ -}}
{{- define "placement" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* What keeps Istio's sidecar, and Linkerd's, out of a pod. */ -}}
{{- define "mesh.labels" -}}
{{- if not .Values.meshSidecar -}}
sidecar.istio.io/inject: "false"
{{- end -}}
{{- end -}}

{{- define "mesh.annotations" -}}
{{- if not .Values.meshSidecar -}}
linkerd.io/inject: disabled
{{- end -}}
{{- end -}}

{{- /* What an estimate of memory leads to: it takes a hub, and the nodes, which a Role cannot show. */ -}}
{{- define "memoryEstimate" -}}
{{- if and .Values.namespaces (eq .Values.settings.memoryEstimate "refuse") -}}
{{- fail "settings.memoryEstimate is refuse, but an operator for some namespaces may not list nodes, and so estimates nothing. Set it to warn or off, or leave namespaces empty." -}}
{{- end -}}
{{- if or .Values.namespaces (empty .Values.settings.hubEndpoint) -}}off
{{- else -}}{{ .Values.settings.memoryEstimate }}
{{- end -}}
{{- end -}}

{{- /* Variables of every training pod. */ -}}
{{- define "trainer.env" -}}
{{- range .Values.trainer.env -}}
{{- if hasPrefix "ALIGNTUNE_" .name -}}
{{- fail (printf "trainer.env: %s begins with ALIGNTUNE_, as the operator's own do: leave it out." .name) -}}
{{- end -}}
{{- end -}}
{{ toJson .Values.trainer.env }}
{{- end -}}

{{- /* Who may ask the pods of jobs for progress and metrics: peers of a NetworkPolicy. */ -}}
{{- define "observers" -}}
{{- $here := dict "matchLabels" (dict "kubernetes.io/metadata.name" .Release.Namespace) -}}
{{- $operator := dict "matchLabels" (include "selector" . | fromYaml) -}}
{{- $observers := list (dict "namespaceSelector" $here "podSelector" $operator) -}}
{{- with .Values.jobNetworkPolicies.metricsFromNamespaces -}}
{{- $observers = append $observers (dict "namespaceSelector" (dict "matchLabels" .)) -}}
{{- end -}}
{{ toJson $observers }}
{{- end -}}

{{- /* A quantity, such as 500m or 1Gi, as a number. */ -}}
{{- define "number" -}}
{{- $factors := dict "" 1 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 0x1p10 "Mi" 0x1p20 "Gi" 0x1p30 "Ti" 0x1p40 "Pi" 0x1p50 "Ei" 0x1p60 -}}
{{- $digits := regexFind "^[0-9.]+(e[+]?[0-9]+)?" (toString .) -}}
{{ mulf (float64 $digits) (get $factors (trimPrefix $digits (toString .))) }}
{{- end -}}

{{- /* The operator's resources, as long as no request is beyond its limit. */ -}}
{{- define "resources" -}}
{{- $limits := .Values.resources.limits -}}
{{- range $name, $request := .Values.resources.requests -}}
{{- $limit := get $limits $name | default 0 -}}
{{- if and (hasKey $limits $name) (gt (include "number" $request | float64) (include "number" $limit | float64)) -}}
{{- fail (printf "resources.requests.%s is %v, but resources.limits.%s is %v: lower the request, or raise the limit." $name $request $name $limit) -}}
{{- end -}}
{{- end -}}
{{ toYaml .Values.resources }}
{{- end -}}

{{- /* An image behind the mirror: (dict "context" $ "name" NAME). */ -}}
{{- define "image" -}}
{{ with .context.Values.imageRegistry }}{{ . }}/{{ end }}{{ .name }}
{{- end -}}

{{- /* CEL for being in a list, where `*` at an end stands for any rest: (dict "name" NAME "list" LIST). */ -}}
{{- define "listed" -}}
{{- $name := .name -}}
{{- $is := list -}}
{{- range .list -}}
{{- $is = append $is (hasSuffix "*" . | ternary (printf "%s.startsWith('%s')" $name (trimSuffix "*" .)) (printf "%s == '%s'" $name .)) -}}
{{- end -}}
{{ join " || " $is }}
{{- end -}}

{{- /* Of all images that no value names otherwise: they are built together. */ -}}
{{- define "tag" -}}
{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "trl.image" -}}
{{ include "image" (dict "context" . "name" (.Values.trainer.trlImage | default (printf "aligntune/trainer:%s-trl" (include "tag" .)))) }}
{{- end -}}

{{- define "unsloth.image" -}}
{{ include "image" (dict "context" . "name" (.Values.trainer.unslothImage | default (printf "aligntune/trainer:%s-unsloth" (include "tag" .)))) }}
{{- end -}}

{{- define "operator.image" -}}
{{- $version := .Values.image.digest | empty | ternary (printf ":%s" (include "tag" .)) (printf "@%s" .Values.image.digest) -}}
{{ include "image" (dict "context" . "name" (print .Values.image.repository $version)) }}
{{- end -}}
