"""What one would write with TRL alone: model, data and settings as in bench/steps.py."""

import sys
from pathlib import Path

from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import SFTConfig, SFTTrainer


def main(model: str, data: str, output: str, steps: int) -> None:
    set_seed(42)
    rows = load_dataset("json", data_files=data, split="train")
    conversations = rows.map(
        lambda row: {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
        },
        remove_columns=rows.column_names,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        args=SFTConfig(
            output_dir=output,
            max_steps=steps,
            max_length=128,
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            optim="adamw_torch",
            logging_steps=10,
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            disable_tqdm=True,
            report_to="none",
        ),
        train_dataset=conversations,
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"
        ),
    )
    trainer.train()
    trainer.save_model(str(Path(output) / "model"))


if __name__ == "__main__":
    main(*sys.argv[1:4], steps=int(sys.argv[4]))
