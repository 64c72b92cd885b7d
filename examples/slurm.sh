#!/bin/bash
# Fine-tunes on 2 machines of 4 GPUs, one process per GPU, and goes on by itself after a time limit or a preemption:
#   sbatch examples/slurm.sh jmp-l-4.safetensors rmd17:aspirin runs/aspirin
# The same lines start the run and resume it. docs/cluster.md explains them.
#SBATCH --job-name=finetune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

srun --kill-on-bad-exit=1 atomslim finetune "$1" "$2" -o "$3" --resume --epochs 20 \
    --set accelerator=gpu --set devices=4 --set nodes=2 --set batch_size=32 --set workers=6
status=$?

# 138: SIGUSR1 came, 120 s before the time limit, and the state is saved. After a preemption SLURM requeues by itself.
if [ $status -eq 138 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
