"""The training arguments that every transformers trainer takes, whatever it trains."""

from typing import Any

from aligntune.core.rl.config import UnifiedConfig
from aligntune.core.sft.config import SFTConfig
from aligntune.training.machine import Compute, Machine
from aligntune.training.sharding import strategy_arguments


def shared_arguments(
    config: SFTConfig | UnifiedConfig,
    *,
    machine: Machine,
    processes: int,
    computed_in: Compute,
    run_name: str,
) -> dict[str, Any]:
    """Arguments of `transformers.TrainingArguments`; what is not here has its default."""
    train, evaluation = config.train, config.evaluation
    measured = evaluation.every_steps is not None
    return {
        "output_dir": config.output_dir,
        "seed": train.seed,
        # how long
        "num_train_epochs": train.epochs,
        "max_steps": train.max_steps or -1,
        "per_device_train_batch_size": train.per_device_batch_size,
        "gradient_accumulation_steps": train.gradient_accumulation_steps,
        # how
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": train.lr_scheduler,
        "warmup_steps": train.warmup_ratio,  # below 1 it is a share of the steps
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "optim": train.optimizer,
        # in what
        "use_cpu": not machine.gpu,
        "bf16": computed_in == "bf16",
        "fp16": computed_in == "fp16",
        "gradient_checkpointing": train.recomputes(gpu=machine.gpu),
        "torch_compile": train.compile,
        **strategy_arguments(config.distributed.strategy, machine=machine, processes=processes),
        "dataloader_pin_memory": machine.gpu,
        # measuring
        "eval_strategy": "steps" if measured else "no",
        "eval_steps": evaluation.every_steps,
        "per_device_eval_batch_size": (
            evaluation.per_device_batch_size or train.per_device_batch_size
        ),
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        # keeping
        "save_strategy": "steps",
        "save_steps": config.checkpoint.every_steps,
        "save_total_limit": None,  # ours are removed once the next one is complete
        # telling
        "logging_steps": config.logging.every_steps,
        "logging_nan_inf_filter": False,
        "report_to": list(config.logging.trackers) or "none",
        "run_name": config.logging.run_name or run_name,
        "disable_tqdm": True,
    }
