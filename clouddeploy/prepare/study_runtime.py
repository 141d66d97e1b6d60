"""The template of `local/study_runtime.yaml`: what the jobs of each study get at this site."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouddeploy_runtime import study_runtime

if TYPE_CHECKING:
    from clouddeploy.prepare.kit import PreparedKit

PATH = f"local/{study_runtime.FILE}"
TEMPLATE = f"""\
# What the jobs of each study get at this site. Read again for each job, so a change counts for the next one.
# A key that is not known keeps jobs from starting. Jobs without a study are of `default`. An example:
#
# studies:
#   default:
#     container:
#       image: registry.example.com/train:1.2   # where the job names none; docker and Kubernetes
#     datasets:                                 # jobs find them at {study_runtime.DATA}/<study>/<dataset>
#       training:
#         source: /srv/training                 # a folder here; Kubernetes: a PersistentVolumeClaim
#         mode: ro                              # or rw
#     env:
#       OMP_NUM_THREADS: "4"
#     secret_env:
#       DB_PASSWORD:                            # Kubernetes: a Secret and its key; else a variable of the parent
#         source: study-db
#         key: password
#     secret_mounts:
#       certificates:
#         source: study-certificates            # Kubernetes: a Secret; else a path here
#         mount_path: /var/run/secrets/study
#     pod_template: pods/default.yaml           # Kubernetes: a file of this folder
#     docker_kwargs:                            # docker: further options of the container
#       shm_size: 8g
#     slurm:                                    # Slurm: partition, account, qos, setup, sandbox
#       partition: gpu
format_version: {study_runtime.VERSION}
studies: {{}}
"""


def ensure(kit: PreparedKit) -> bool:
    """Write the template, unless the site has such a file, or the older one that it would hide; return whether."""
    local = kit.root / "local"
    if (local / study_runtime.FILE).exists() or (local / study_runtime.OLDER_FILE).exists():
        return False
    kit.write(PATH, TEMPLATE)
    return True
