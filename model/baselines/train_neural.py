"""Train a neural baseline on prebuilt sequences: `python -m model.baselines.train_neural --name lstm --out FOLDER`.

A folder of sequences is what `model.dataset.build_sequences` leaves.
"""

import argparse
import json
import logging
from dataclasses import replace
from pathlib import Path

import torch

from model.baselines.neural import NETWORKS, NeuralBaseline
from model.baselines.stateful_training import PRECISIONS, NeuralConfig, default_training
from model.checkpoint import SHIPPED, load_checkpoint
from model.dataset import open_sequences

logger = logging.getLogger(__name__)

# Settings of the training that the command line takes.
TUNABLE = (
    "length", "batch", "pretrain_steps", "finetune_steps", "learning_rate", "warmup_steps", "validate_every", "seed",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--name", choices=tuple(NETWORKS), required=True, help="network")
    parser.add_argument("--train", type=Path, required=True, help="folder of the training sequences")
    parser.add_argument("--validation", type=Path, help="folder of the validation sequences")
    parser.add_argument("--out", type=Path, required=True, help="folder of the trained baseline")
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="whose preprocessing the sequences had")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: bf16 for the transformer, tf32 for the LSTM")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network")
    training = default_training()
    for setting in TUNABLE:
        value = getattr(training, setting)
        parser.add_argument(f"--{setting.replace('_', '-')}", type=type(value), default=value, help=" ")
    options = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    name, out = options.pop("name"), options.pop("out")
    train = open_sequences(options.pop("train"))
    folder = options.pop("validation")
    validation = open_sequences(folder) if folder else None
    preprocessor = load_checkpoint(options.pop("checkpoint")).preprocessor()
    precision = options["precision"] or ("bf16" if name == "transformer" else "tf32")
    training = replace(training, **{setting: options[setting] for setting in TUNABLE})
    config = NeuralConfig(training, precision=precision, compile=options["compile"])
    baseline = NeuralBaseline(name, preprocessor=preprocessor, config=config)
    parameters = sum(p.numel() for p in baseline.network.parameters())
    logger.info("%s with %d parameters on %s", name, parameters, baseline.device)
    baseline.fit_sequences(train, validation)
    baseline.save(out)
    if torch.cuda.is_available():
        logger.info("peak memory %.1f GiB", torch.cuda.max_memory_allocated() / 2**30)
    logger.info("%s", json.dumps(baseline.history[-1]))


if __name__ == "__main__":
    main()
