"""Training on Lightning's Trainer: pre-training, fine-tuning and distillation are configurations of one trainer."""
