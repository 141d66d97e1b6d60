#!/usr/bin/env bash
# Runs the process of one job on a node of a cluster. A site's launcher submits it:
#   sbatch OPTIONS slurm_job.sh SETUP SANDBOX NAMES PORTS COMMAND...
#   SETUP     file with the site's own lines, such as module load; -: none
#   SANDBOX   none, apptainer or pyxis
#   NAMES     variables that a sandbox lets through, separated by commas
#   PORTS     LOWEST-HIGHEST: one of them, by the number of the batch job, is MASTER_PORT; -: none
# No secret is in an argument or in the environment; the last word of COMMAND is the file that has one.
set -e

setup="$1"
sandbox="$2"
names="$3"
ports="$4"
shift 4

if [ "$setup" != - ]; then
    # shellcheck source=/dev/null
    . "$setup"
fi
set -u

if [ "${SLURM_RESTART_COUNT:-0}" != 0 ]; then
    echo "slurm_job.sh: started again by the scheduler; its site does not wait for it any more" >&2
    exit 1
fi
if [ "$ports" != - ]; then
    lowest="${ports%-*}"
    MASTER_PORT=$((lowest + SLURM_JOB_ID % (${ports#*-} - lowest + 1)))
    export MASTER_PORT
fi

passed=""
IFS=, read -r -a list <<<"$names"
for name in ${list[@]+"${list[@]}"}; do
    if [ -n "${!name+x}" ]; then
        passed="${passed:+$passed,}$name"
        if [ "$sandbox" = apptainer ]; then export "APPTAINERENV_$name=${!name}"; fi
    fi
done

case "$sandbox" in
    none | apptainer) exec "$@" ;;
    # The first word is srun. Of the variables of this script a step has those that are named, and Slurm's own.
    pyxis)
        srun="$1"
        shift
        exec "$srun" "--export=${passed:-NONE}" ${passed:+"--container-env=$passed"} "$@"
        ;;
    *)
        echo "slurm_job.sh: there is no sandbox $sandbox" >&2
        exit 1
        ;;
esac
