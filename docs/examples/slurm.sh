#!/bin/bash
#SBATCH --job-name=bonsai
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=04:00:00

# Prunes one model with all GPUs of the job: sbatch slurm.sh. The folder from which it is submitted, with the
# environment and the model's cache, is on all nodes. Submitted again, it goes on where the last job ended.
set -euo pipefail
RUN=runs/8b-30

# A token of this job's own, which srun hands to every node: nothing else can use the cluster.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
read -r head < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 10000))   # two jobs may share a node
options=(--disable-usage-stats --temp-dir="/tmp/ray-$SLURM_JOB_ID"
         --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --block)

trap 'kill $(jobs -p); wait' EXIT        # Ray ends with this script, on all nodes
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --port="$port" --include-dashboard=false "${options[@]}" &
until (: </dev/tcp/"$head"/"$port") 2>/dev/null; do kill -0 $!; sleep 1; done
if ((SLURM_JOB_NUM_NODES > 1)); then
    srun --overlap --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks-per-node=1 --exclude="$head" \
        ray start --address="$head:$port" "${options[@]}" &
fi

# Workers count as soon as they have joined, so this need not wait for them.
if [ -e "$RUN" ]; then
    bonsai resume "$RUN" --executor ray --ray-address "$head:$port"
else
    bonsai run --model meta-llama/Llama-3.1-8B --dataset c4 --sparsity 0.3 --submodels 1000 \
        --executor ray --ray-address "$head:$port" --out "$RUN"
fi
