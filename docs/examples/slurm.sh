#!/bin/bash
#SBATCH --job-name=bonsai
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=04:00:00

# Prunes one model with all GPUs of the job: sbatch slurm.sh. The folder from which it is
# submitted, the environment and the model are on all nodes. Submitted again, it goes on
# where the last job ended.
set -euo pipefail
RUN=runs/8b-30

# A token of this job's own, which srun hands to every node: nobody else can use the cluster.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token
read -r head < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 10000))   # two jobs may share a node
gpus=${SLURM_GPUS_ON_NODE:-0}
options=(--disable-usage-stats --temp-dir="/tmp/ray-$SLURM_JOB_ID"
         --num-cpus="$SLURM_CPUS_PER_TASK" --block)

trap 'kill $(jobs -p); wait' EXIT        # Ray ends with this script, on all nodes
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --port="$port" --include-dashboard=false \
    --num-gpus=$((gpus > 0 ? gpus - 1 : 0)) "${options[@]}" &
until (: </dev/tcp/"$head"/"$port") 2>/dev/null; do kill -0 $!; sleep 1; done
if ((SLURM_JOB_NUM_NODES > 1)); then
    srun --overlap --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks-per-node=1 --exclude="$head" \
        ray start --address="$head:$port" --num-gpus="$gpus" "${options[@]}" &
fi

# The driver has the last GPU of the head, which no worker has. Workers join when they can.
[ -z "${CUDA_VISIBLE_DEVICES:-}" ] || export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES##*,}"
if [ -e "$RUN" ]; then
    bonsai resume "$RUN" --executor ray --ray-address "$head:$port"
else
    bonsai run --model models/Llama-3.1-8B --dataset calibration.txt --sparsity 0.3 \
        --submodels 1000 --executor ray --ray-address "$head:$port" --out "$RUN"
fi
