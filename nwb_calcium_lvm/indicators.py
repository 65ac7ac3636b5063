"""Presets of common calcium indicators: what a single spike does to dF/F in vivo.

The numbers are starting points (priors, simulations, plots), not measurements of anyone's preparation: kinetics
vary with expression, temperature and cell type by a factor of two.

Sources: Chen et al. 2013 (GCaMP6), Dana et al. 2016 (jRGECO1a, jRCaMP1a), Dana et al. 2019 (jGCaMP7), Zhang et al.
2023 (jGCaMP8), Akerboom et al. 2012 (GCaMP5), Tada et al. 2014 (Cal-520), Kerr et al. 2005 (OGB-1).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Indicator:
    """Kinetics and brightness of one calcium indicator.

    Parameters
    ----------
    name : str
        Canonical spelling.
    rise_time : float
        Time constant of the rise after a spike, in seconds.
    decay_time : float
        Time constant of the decay after a spike, in seconds.
    amplitude : float
        Peak dF/F of a single spike, as a fraction (0.2 is 20 %).
    """

    name: str
    rise_time: float
    decay_time: float
    amplitude: float

    @classmethod
    def named(cls, name: "str | Indicator") -> "Indicator":
        """Return the preset of that name; spelling is forgiving (``"GCaMP-6s"`` and ``"gcamp6s"`` are one).

        Raises
        ------
        ValueError
            If there is no such preset; the message lists those there are.
        """
        if isinstance(name, Indicator):
            return name
        preset = find(name)
        if preset is None:
            known = ", ".join(sorted(i.name for i in PRESETS.values()))
            raise ValueError(
                f"There is no indicator preset called {name!r}. Known: {known}. "
                "For another one pass Indicator(name, rise_time, decay_time, amplitude) with times in seconds."
            )
        return preset


def _key(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


PRESETS = {
    _key(i.name): i
    for i in (
        Indicator("GCaMP5k", 0.09, 0.60, 0.06),
        Indicator("GCaMP6s", 0.18, 1.20, 0.23),
        Indicator("GCaMP6m", 0.10, 0.80, 0.13),
        Indicator("GCaMP6f", 0.05, 0.40, 0.19),
        Indicator("jGCaMP7s", 0.07, 0.90, 0.40),
        Indicator("jGCaMP7f", 0.05, 0.45, 0.25),
        Indicator("jGCaMP8s", 0.01, 0.40, 0.45),
        Indicator("jGCaMP8m", 0.01, 0.15, 0.35),
        Indicator("jGCaMP8f", 0.01, 0.10, 0.25),
        Indicator("jRGECO1a", 0.06, 0.40, 0.20),
        Indicator("jRCaMP1a", 0.10, 1.20, 0.10),
        Indicator("R-CaMP", 0.10, 0.70, 0.10),
        Indicator("XCaMP-Gf", 0.03, 0.22, 0.20),
        Indicator("OGB-1", 0.01, 0.70, 0.10),
        Indicator("Cal-520", 0.03, 0.70, 0.15),
    )
}


def find(text: str) -> Indicator | None:
    """Return the preset whose name occurs in a free text, such as NWB's ``ImagingPlane.indicator``, or None."""
    key = _key(text)
    if key in PRESETS:
        return PRESETS[key]
    # The longest name first, so that "AAV-syn-jGCaMP8f" is not taken for a shorter name it contains.
    for name in sorted(PRESETS, key=len, reverse=True):
        if name in key or name.removeprefix("j") in key:
            return PRESETS[name]
    return None
