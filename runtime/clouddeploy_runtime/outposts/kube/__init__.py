"""Jobs as pods of a Kubernetes cluster: their settings, what a pod is made of, and what its state means.

Pure but for `cluster`, which talks to the API server; `outposts.kubernetes` puts them together.
"""
