"""What all parts of the text share: the stored steps, the acquisition, and the DWI series that a step used."""

from __future__ import annotations

from dataclasses import dataclass

from kwneuro_assets.reports.boilerplate.acquisition import Acquisition
from kwneuro_assets.reports.boilerplate.records import RecordedStep, RecordedSteps

RESIDUAL = "residual_rms_fraction_of_mean_signal"


@dataclass(frozen=True)
class Context:
    """The stored steps of a subject and its acquisition."""

    steps: RecordedSteps
    acquisition: Acquisition

    def acquisition_of(self, user: RecordedStep) -> Acquisition:
        """The acquisition of the DWI series that `user` was computed from; nothing is known of an earlier one."""
        return self.acquisition if self.steps.input_of(user, "denoised_dwi") else Acquisition()

    def series_of(self, user: RecordedStep, *, prefers_raw: bool = False) -> str:
        """The DWI series that `user` was computed from, such as `the denoised DWI series`.

        If `user` has both as inputs, it was the raw one if `prefers_raw`. The denoised one is called so only if
        denoising changed it.
        """
        is_raw = user.takes("dwi") and (prefers_raw or not user.takes("denoised_dwi"))
        denoised = self.steps.input_of(user, "denoised_dwi") if user.takes("denoised_dwi") else None
        if is_raw:
            other = denoised or self.steps.get("denoised_dwi")
            return "the raw DWI series" if other and was_denoised(other) else "the DWI series"
        return "the denoised DWI series" if denoised and was_denoised(denoised) else "the DWI series"


def was_denoised(step: RecordedStep) -> bool | None:
    """Whether `denoised_dwi` differs from the raw DWI; None if that is not recorded.

    A DWI series that does not suit Patch2Self is stored unchanged, and its residual is exactly zero.
    """
    residual = step.found(RESIDUAL)
    if step.word("method") == "none":
        return False
    return None if residual is None else residual > 0
