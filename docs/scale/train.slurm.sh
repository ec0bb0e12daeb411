#!/bin/bash
# sbatch docs/scale/train.slurm.sh configs/ham/image-labels.toml /shared/runs/ham [--set KEY=VALUE ...]
# One task for each machine; `chestmap train` starts one process for each GPU. /shared must be the same on all machines.
#SBATCH --job-name=chestmap-train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=chestmap-%j.log
set -euo pipefail

config=${1:?which config}
out=${2:?which run folder, on a file system that all machines share}
shift 2

code=0
srun --kill-on-bad-exit=1 chestmap train "$config" --out "$out" \
  --devices "$SLURM_GPUS_ON_NODE" --nodes "$SLURM_JOB_NUM_NODES" \
  --set run.device=cuda --set run.precision=bf16 --set run.restarts=3 --set run.workers=6 "$@" || code=$?

if [ "$code" = 130 ]; then # the time limit is near: every process has saved, and the job goes on in its next turn
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
