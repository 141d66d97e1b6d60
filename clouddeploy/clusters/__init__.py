"""Sites of a deploy file that run in Kubernetes: `provider: kubernetes`.

A namespace of a cluster is the place, and the site's pod the machine, so the engine plans, journals, resumes and
destroys as everywhere. `provider` makes and removes, `work` stages the kit and starts the pod, `wishes` knows the
deploy file's keys, `api` is the cluster with our labels and the engine's errors, `diagnosis` says why a pod is not
ready, `kubectl` has the commands with which people go on.
"""
