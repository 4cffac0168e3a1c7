"""A checkpoint at work: the states of many vehicles advanced one step at a time, and whole sequences recomputed."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kernels import (
    CHUNKED,
    BackendUnavailableError,
    NetworkOutput,
    RecurrentState,
    StatePool,
    choose_backend,
    network_scan,
)
from model.checkpoint import Checkpoint
from model.preprocess import Features, preprocess_sequence

__all__ = ["BackendUnavailableError", "ModelRuntime", "Recomputed", "StepScores", "recompute", "recompute_fleet"]

Slots = NDArray[np.int64]
Singles = NDArray[np.float32]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StepScores:
    """What the model says after one sample of each vehicle of a batch."""

    risk: Floats  # (batch,) calibrated
    forecast_mean: Singles  # (batch, n_channels)
    forecast_log_scale: Singles  # (batch, n_channels)


class ModelRuntime:
    """A backend with its pool of states. Not thread-safe: one caller at a time.

    Raises:
        BackendUnavailableError: the backend cannot run here.
    """

    def __init__(self, checkpoint: Checkpoint, backend: str, n_slots: int) -> None:
        self.checkpoint = checkpoint
        self._backend = choose_backend(backend, checkpoint.config, checkpoint.network.weights())
        self._pool = StatePool(checkpoint.config, n_slots, self._backend.device)

    @property
    def backend(self) -> str:
        """Name of the backend that computes the step."""
        return self._backend.name

    @property
    def device(self) -> str:
        """Where it computes."""
        return str(self._backend.device)

    @property
    def n_slots(self) -> int:
        """Slots in all, the dummy slot 0 included."""
        return self._pool.n_slots

    def step(self, slots: Slots, features: Features) -> StepScores:
        """Advance `slots` (batch,), which must not repeat, by one sample each, in place."""
        output = self._backend.step(
            self._pool, torch.from_numpy(slots), torch.from_numpy(features.inputs), torch.from_numpy(features.ratio)
        )
        return self._scores(output)

    def scan(self, slots: Slots, lengths: Slots, features: Features) -> StepScores:
        """Advance `slots` (vehicles,), which must not repeat, by `lengths` samples each, in place.

        Args:
            slots: (vehicles,).
            lengths: (vehicles,) samples of each, zero allowed.
            features: of lengths.sum() rows, vehicle after vehicle.

        Returns:
            Scores after every row.
        """
        output = self._backend.scan_packed(
            self._pool,
            torch.from_numpy(slots),
            torch.from_numpy(lengths),
            torch.from_numpy(features.inputs),
            torch.from_numpy(features.ratio),
        )
        return self._scores(output)

    def replay(self, slots: Slots, lengths: Slots, inputs: Singles, ratio: Singles) -> None:
        """Advance as `scan` does from the network's inputs (rows, d_input) and ratios (rows,), for the states only."""
        self._backend.scan_packed(
            self._pool,
            torch.from_numpy(slots),
            torch.from_numpy(lengths),
            torch.from_numpy(inputs),
            torch.from_numpy(ratio),
            last_only=True,
        )

    def _scores(self, output: NetworkOutput) -> StepScores:
        logit, mean, log_scale = output.risk_logit, output.forecast_mean, output.forecast_log_scale
        if logit.device.type != "cpu":  # in one copy: each waits for the device, and then for the interpreter's lock
            together = torch.cat([logit[:, None], mean, log_scale], 1).cpu()
            n = mean.shape[1]
            logit, mean, log_scale = together[:, 0], together[:, 1 : 1 + n], together[:, 1 + n :]
        return StepScores(
            risk=self.checkpoint.calibration.risk(logit.numpy()),
            forecast_mean=mean.numpy(),
            forecast_log_scale=log_scale.numpy(),
        )

    def read(self, slots: Slots) -> tuple[Singles, Singles]:
        """Copies of conv_state (batch, n_layer, conv_width, d_conv - 1) and ssm_state (batch, n_layer, d_inner, d_state)."""
        if not len(slots):  # most batches: a device would be asked six times for nothing
            config = self.checkpoint.config
            return np.empty((0, *config.conv_state_shape), np.float32), np.empty(
                (0, *config.ssm_state_shape), np.float32
            )
        state = self._pool.read(torch.from_numpy(slots).to(self._backend.device))
        return state.conv.cpu().numpy(), state.ssm.cpu().numpy()

    def write(self, slots: Slots, conv: Singles, ssm: Singles) -> None:
        """Put stored states (batch, ...) into slots (batch,), which must not repeat.

        Raises:
            ValueError: their shapes are not this model's.
        """
        config = self.checkpoint.config
        if conv.shape[1:] != config.conv_state_shape or ssm.shape[1:] != config.ssm_state_shape:
            raise ValueError(f"states have shapes {conv.shape[1:]} and {ssm.shape[1:]}, the model's are {config}")
        state = RecurrentState(torch.from_numpy(conv), torch.from_numpy(ssm))
        self._pool.write(torch.from_numpy(slots).to(self._backend.device), state)

    def zero(self, slots: Slots) -> None:
        """Put slots (batch,) back to the state before the first sample."""
        self._pool.zero(torch.from_numpy(slots).to(self._backend.device))

    def warm_up(self) -> None:
        """Run preprocessing and step once on the dummy slot, so that the first sample does not pay for compilation.

        Raises:
            RuntimeError: the step does not give finite numbers.
        """
        preprocessor = self.checkpoint.preprocessor()
        nothing = np.full((1, len(preprocessor.schema.signals)), np.nan)
        features = preprocessor.advance(preprocessor.initial_state(1), np.zeros(1, np.int64), nothing)
        scores = self.step(np.zeros(1, np.int64), features)
        self.zero(np.zeros(1, np.int64))
        if not np.isfinite(scores.risk).all():
            raise RuntimeError(f"backend {self.backend} gives {scores.risk} on an empty sample")


@dataclass(frozen=True, slots=True)
class Recomputed:
    """A vehicle's whole session computed offline."""

    conv: Floats  # (n_layer, conv_width, d_conv - 1)
    ssm: Floats  # (n_layer, d_inner, d_state)
    risk: Floats  # (length,)


def recompute(checkpoint: Checkpoint, ts_ms: NDArray[np.int64], signals: Floats) -> Recomputed:
    """State and risks of one session by the parallel scan in float64: what streaming must arrive at.

    Args:
        checkpoint: the model.
        ts_ms: (length,) epoch milliseconds, rising, length at least 1.
        signals: (length, n_signals) in wire order, NaN when absent.
    """
    return recompute_fleet(checkpoint, ts_ms[None], signals[None])[0]


def recompute_fleet(checkpoint: Checkpoint, ts_ms: NDArray[np.int64], signals: Floats) -> list[Recomputed]:
    """`recompute` for sessions of one length at once: ts_ms (n_vehicles, length), signals (n_vehicles, length, n_signals)."""
    lengths = np.full(len(ts_ms), ts_ms.shape[1])
    features = preprocess_sequence(checkpoint.preprocessor(), ts_ms, signals, lengths)
    weights = checkpoint.network.weights().to(device=torch.device("cpu"), dtype=torch.float64)
    with torch.inference_mode():
        output, state = network_scan(
            checkpoint.config,
            weights,
            torch.from_numpy(features.inputs).double(),
            torch.from_numpy(features.ratio).double(),
            scan=CHUNKED,
        )
    risk = checkpoint.calibration.risk(output.risk_logit.numpy())
    conv, ssm = state.conv.numpy(), state.ssm.numpy()
    return [Recomputed(conv=conv[i], ssm=ssm[i], risk=risk[i]) for i in range(len(ts_ms))]
