"""Startup kits made ready for a container engine, a Kubernetes cluster or a batch system: `clouddeploy prepare`.

A kit is verified, copied, and the copy is edited: which launcher starts jobs, where a server keeps them, a template
of `local/study_runtime.yaml`. Then the module of its runtime adds its files. What the project signed stays as it is.
"""
