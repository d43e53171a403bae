"""What others see of a result: the model card, and the checkpoint on the Hugging Face hub."""
