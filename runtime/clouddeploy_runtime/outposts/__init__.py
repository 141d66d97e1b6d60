"""Jobs whose process runs elsewhere: in a container, in a pod, on a node of a cluster.

The site's parent starts a process of its own for such a job as for any other: `near`. It opens the outpost, which runs
`far` with the job's process as its child, and carries messages, parameters and what the job prints between both, over
TLS with a certificate and a token made for this one job. So a parent knows no container engine, holds no more memory,
and treats all jobs alike.
"""
