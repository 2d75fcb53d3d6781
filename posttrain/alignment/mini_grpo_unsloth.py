"""The lab: GRPO by production libraries, the same code with a GPU and without.

    settings = PRESETS["t4"]
    policy = load_policy(settings, folder)      # Unsloth where it is, else PEFT
    trainer = make_trainer(settings, policy, train, held_out, folder)
    train(trainer)                              # goes on where it was cut off

With a GPU: an instruct model in 4 bit with LoRA adapters. Without: the book's own cold
start, through the same calls. Unsloth must be imported before trl and transformers; it
changes their classes where there is a GPU, and leaves TRL's trainer as it is on a CPU.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from posttrain.alignment.mini_grpo_unsloth_exam import Exam, Question, exam_callback
from posttrain.alignment.mini_grpo_unsloth_local import save_cold_start
from posttrain.alignment.mini_grpo_unsloth_rewards import reward_functions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import GRPOTrainer

PROJECTIONS = (
    *("q_proj", "k_proj", "v_proj", "o_proj"),
    *("gate_proj", "up_proj", "down_proj"),
)
SYSTEM = (
    "Think about the problem between <think> and </think>. After that write the "
    "answer: one number and nothing else."
)


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run. Lengths are in tokens.

    model: a name on the Hugging Face hub, or None for the book's cold start `cold`.
    tags, number, correct: the weight of each reward.
    """

    model: str | None = None
    cold: str = "cpu"
    system: str | None = None
    four_bit: bool = False
    rank: int = 16
    alpha: int = 32
    lr: float = 2e-3
    warmup: int = 0  # steps
    steps: int = 60
    prompts: int = 16  # questions a step
    group: int = 8  # replies to each
    batch: int = 64  # replies in memory at once while learning
    max_new: int = 48
    max_length: int = 128  # question and reply together
    temperature: float = 1.0
    beta: float = 0.0
    clip: tuple[float, float] = (0.2, 0.28)
    tags: float = 0.125
    number: float = 0.125
    correct: float = 1.0
    held_out: int = 300  # questions of the exam
    exam_every: int = 15  # steps
    save_every: int = 15
    optimizer: str = "adamw_torch"
    seed: int = 0

    def __post_init__(self):
        replies = self.prompts * self.group
        if replies % self.batch or self.batch % self.group:
            raise ValueError(
                f"batch={self.batch} must divide prompts * group = {replies} and hold"
                f" whole groups of {self.group}"
            )


PRESETS = {
    "ci": Settings(cold="ci", steps=20, held_out=120, exam_every=10, save_every=10),
    "cpu": Settings(),
    "t4": Settings(
        model="unsloth/Qwen2.5-1.5B-Instruct",
        system=SYSTEM,
        four_bit=True,
        rank=32,
        alpha=32,
        lr=1e-5,
        warmup=10,
        steps=200,
        prompts=4,
        batch=8,
        max_new=400,
        max_length=800,
        held_out=100,
        exam_every=50,
        save_every=25,
        optimizer="adamw_8bit",
    ),
}
PRESETS["h200"] = Settings(
    **{
        **asdict(PRESETS["t4"]),
        "model": "unsloth/Qwen2.5-7B-Instruct",
        "prompts": 32,
        "batch": 64,
        "max_new": 800,
        "max_length": 1200,
        "held_out": 500,
    }
)


@dataclass(frozen=True)
class Policy:
    """A model with adapters, its tokenizer, and who made them: "unsloth" or "peft"."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    by: str

    @property
    def end_ids(self) -> set[int]:
        """The tokens that end a turn."""
        ends = self.model.generation_config.eos_token_id
        return set(ends) if isinstance(ends, list) else {ends}


def import_unsloth() -> tuple[bool, str]:
    """Import Unsloth, first of all libraries; whether that went well, and what to say.

    It may be missing, or refuse to work (older ones do without a GPU): both are fine,
    the lab goes on with PEFT.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses a kernel
    late = [name for name in ("transformers", "trl") if name in sys.modules]
    try:
        import unsloth
    except (
        Exception
    ) as error:  # it raises what it likes: ImportError, RuntimeError, ...
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return False, f"Unsloth is not used ({reason}). TRL and PEFT do its work."
    said = f"Unsloth {unsloth.__version__} is imported."
    if late and torch.cuda.is_available():
        said += f" {' and '.join(late)} came first: restart, or it will be slow."
    return True, said


def load_policy(settings: Settings, folder: Path, unsloth: bool = True) -> Policy:
    """The model with fresh LoRA adapters on every projection.

    folder: where the book's cold start is written, if it is the model.
    unsloth: load by Unsloth, or by transformers and PEFT alone.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    name = settings.model
    if name is None:
        name = str(folder / "cold_start")
        save_cold_start(Path(name), settings.cold)
    load = _by_unsloth if unsloth else _by_peft
    torch.manual_seed(settings.seed)
    model, tokenizer = load(settings, name)
    tokenizer.padding_side = "left"
    return Policy(model, tokenizer, "unsloth" if unsloth else "peft")


def _by_unsloth(settings: Settings, name: str):
    from unsloth import FastLanguageModel

    model, tokenizer = FastLanguageModel.from_pretrained(
        name,
        max_seq_length=settings.max_length,
        dtype=_dtype(),
        load_in_4bit=settings.four_bit,
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0,
        target_modules=list(PROJECTIONS),
        use_gradient_checkpointing="unsloth" if torch.cuda.is_available() else False,
        random_state=settings.seed,
    )
    return model, tokenizer


def _by_peft(settings: Settings, name: str):
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    four_bit = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=_dtype(),
    )
    model = AutoModelForCausalLM.from_pretrained(
        name,
        dtype=_dtype(),
        device_map="cuda" if torch.cuda.is_available() else None,
        quantization_config=four_bit if settings.four_bit else None,
    )
    if settings.four_bit:
        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=torch.cuda.is_available()
        )
    lora = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules=list(PROJECTIONS)
    )
    return get_peft_model(model, lora), AutoTokenizer.from_pretrained(name)


def _dtype() -> torch.dtype:
    """float32 on a CPU; on a GPU bfloat16, or float16 where it lacks that (T4)."""
    if not torch.cuda.is_available():
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16


def prompt_of(question: str, system: str | None) -> list[dict]:
    """A question as messages."""
    asked = {"role": "user", "content": question}
    return [asked] if system is None else [{"role": "system", "content": system}, asked]


def make_trainer(
    settings: Settings,
    policy: Policy,
    questions: Sequence[Question],
    exam: Exam,
    folder: Path,
    rewards: Sequence | None = None,
    weights: Sequence[float] | None = None,
) -> GRPOTrainer:
    """TRL's GRPO trainer on `questions`, with the exam held as it goes.

    rewards: functions of your own instead of tags, number and correct, with a weight
    each. Checkpoints and the log go to `folder`.
    """
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    if rewards is None:
        rewards = reward_functions(policy.end_ids)
        weights = [settings.tags, settings.number, settings.correct]
    rows = [
        {"prompt": prompt_of(q.question, settings.system), "answer": q.answer}
        for q in questions
    ]
    trainer = GRPOTrainer(
        model=policy.model,
        processing_class=policy.tokenizer,
        reward_funcs=list(rewards),
        train_dataset=Dataset.from_list(rows),
        args=GRPOConfig(**_arguments(settings, folder), reward_weights=weights),
        callbacks=[exam_callback(exam, policy, settings.exam_every)],
    )
    trainer.remove_callback(PrinterCallback)  # twenty numbers a step; they are logged
    return trainer


def _arguments(settings: Settings, folder: Path) -> dict:
    """What TRL's configuration is told; the names are TRL's."""
    gpu, dtype = torch.cuda.is_available(), _dtype()
    return {
        "output_dir": str(folder),
        "max_steps": settings.steps,
        "per_device_train_batch_size": settings.batch,
        "gradient_accumulation_steps": (
            settings.prompts * settings.group // settings.batch
        ),
        "num_generations": settings.group,
        "max_completion_length": settings.max_new,
        "temperature": settings.temperature,
        "beta": settings.beta,
        "epsilon": settings.clip[0],
        "epsilon_high": settings.clip[1],
        "learning_rate": settings.lr,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": settings.warmup,
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        "optim": settings.optimizer,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "use_cpu": not gpu,
        "gradient_checkpointing": gpu,
        "save_steps": settings.save_every,
        "save_total_limit": 2,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": settings.seed,
    }


def train(trainer: GRPOTrainer, settings: Settings) -> list[dict]:
    """Run to the end, from the last checkpoint where there is one; the whole log.

    Raises ValueError where the folder holds a run with other settings: what is learned
    there would be mixed up with this one.
    """
    from transformers.trainer_utils import get_last_checkpoint

    folder = Path(trainer.args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    _same_settings(folder / "settings.json", settings)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))
    return trainer.state.log_history


def _same_settings(file: Path, settings: Settings) -> None:
    """Note the settings of a run, or compare them with those of the run that is there.

    More steps are no other run: so it can be continued.
    """
    mine = json.loads(json.dumps(asdict(settings)))
    if file.exists():
        theirs = json.loads(file.read_text())
        differ = [name for name in mine if mine[name] != theirs.get(name)]
        if set(differ) - {"steps"}:
            told = ", ".join(
                f"{n}: {theirs.get(n)} there, {mine[n]} now" for n in differ
            )
            raise ValueError(
                f"{file.parent} holds a run with other settings ({told}); name another"
                " folder, or delete this one"
            )
    file.write_text(json.dumps(mine, indent=1))
