#!/bin/bash
# sbatch docs/scale/predict.slurm.sh /shared/runs/ham/model /shared/list.parquet /shared/predictions
# Each task of the array makes its share of the parts; a task that died is started again alone: sbatch --array=17 ...
#SBATCH --job-name=chestmap-predict
#SBATCH --array=0-63
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=chestmap-%A-%a.log
set -euo pipefail

model=${1:?which model folder}
list=${2:?which list of images}
out=${3:?which folder of predictions}
shards=64 # as many as --array asks for; SLURM_ARRAY_TASK_COUNT would be 1 for a task that is started again alone

srun chestmap predict "$model" "$list" --out "$out" --shard "$SLURM_ARRAY_TASK_ID/$shards"
