"""Few-shot tasks: splits, models, finetuning, inference, metrics, statistics."""
