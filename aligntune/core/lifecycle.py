"""The lifecycle of a run, the same for every method and backend."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Generic, TypeVar

from aligntune.core.rl.config import UnifiedConfig
from aligntune.core.sft.config import SFTConfig
from aligntune.core.train_result import TrainResult
from aligntune.core.training_state import TrainingState

RunsConfig = TypeVar("RunsConfig", bound=SFTConfig | UnifiedConfig)


class Lifecycle(ABC, Generic[RunsConfig]):
    """Trains one model on one config.

    The order is `setup_model`, `setup_data`, `train`, `evaluate`, `save_model`, `predict`. Each of
    the later ones sets up what it needs first, so calling them alone works.
    """

    def __init__(self, config: RunsConfig) -> None:
        self.config = config
        self.state = TrainingState()

    def setup(self) -> None:
        """Everything that comes before the first step, in order."""
        self.setup_model()
        self.setup_data()

    @abstractmethod
    def setup_model(self) -> None:
        """Load model and tokenizer.

        Raises:
            ModelNotFoundError, UnauthorizedError: There is no such model, or not for this token.
            ConfigError: The model, its precision or its kernels cannot be had on this machine.
        """

    @abstractmethod
    def setup_data(self) -> None:
        """Read, recognise, tokenise and mix the data; log a sample as the model will see it.

        Raises:
            DataError: A source is missing or unreadable, or its columns fit no shape.
        """

    @abstractmethod
    def train(self) -> TrainResult:
        """Train to the end, from the newest complete checkpoint where there is one.

        Raises:
            ConfigError: The checkpoint belongs to another config or number of processes.
            LossDivergedError: The loss is no longer a finite number.
        """

    @abstractmethod
    def evaluate(self, dataset: str | None = None) -> dict[str, float]:
        """Measure on the held-out rows, or on `dataset` (a hub name, file or folder).

        Where nothing is held out, up to 512 rows of the training data are measured instead. What
        is measured on `dataset` is only returned: it is no best metric and not on the model's card.
        Trackers show it as `test`.

        Returns:
            Metrics by name: `eval_loss` and so on; of training rows `train_loss` instead.
        """

    @abstractmethod
    def save_model(self, path: str | Path | None = None, *, merge: bool = False) -> Path:
        """Write a folder that plain transformers or PEFT loads, with the GGUF files asked for.

        Args:
            path: The folder; default `<output_dir>/model`. One that is there is replaced as a
                whole.
            merge: Merge adapters into 16-bit base weights that are loaded anew.

        Returns:
            The folder.

        Raises:
            ConfigError: llama.cpp cannot convert the model, which is saved all the same.
        """

    @abstractmethod
    def predict(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Ask the model: a text, a conversation, or a list of either.

        What comes back, and what else can be said, depends on the kind of model: each trainer's
        own `predict` tells.
        """

    @abstractmethod
    def save_checkpoint(self) -> Path:
        """Save where the run stands now; returns the checkpoint's folder."""

    @abstractmethod
    def load_checkpoint(self, path: str | Path) -> None:
        """Let `train` go on from this checkpoint.

        Raises:
            ConfigError: The checkpoint is incomplete, or of another config or world size.
        """

    @abstractmethod
    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = True,
        token: str | None = None,
        commit_message: str = "Upload model",
    ) -> str:
        """Upload the saved model; returns its URL.

        Raises:
            HubPushError, UnauthorizedError: The hub cannot be reached or refuses the token.
        """
