"""The one table of what there is to cite: papers and software, and how each is printed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Style = Literal["text", "bibtex"]


@dataclass(frozen=True)
class Reference:
    """One thing to cite.

    Parameters
    ----------
    key : str
        Name in the table, and of the BibTeX entry.
    kind : str
        Type of the BibTeX entry.
    authors : tuple of str
        Each as ``"Family, Given"``; a name in braces is printed as it is; ``"others"`` last, as BibTeX has it.
    year : str
        Year, empty where there is none to tell.
    title : str
    where : str
        Journal, proceedings or archive, with volume and pages.
    doi : str
        Digital object identifier, empty if there is none.
    url : str
        Where to find it, if it has no identifier.
    role : str
        What of a result rests on it, in a few words.
    """

    key: str
    kind: str
    authors: tuple[str, ...]
    year: str
    title: str
    where: str = ""
    doi: str = ""
    url: str = ""
    role: str = ""

    @property
    def link(self) -> str:
        """Address of it, or nothing."""
        return f"https://doi.org/{self.doi}" if self.doi else self.url

    def text(self) -> str:
        """Return the reference as a sentence."""
        names = [_short(name) for name in self.authors]
        people = names[0] if len(names) == 1 else ", ".join(names[:-1]) + f" and {names[-1]}"
        people = f"{names[0]} et al." if names[-1] == "others" else people
        parts = [people + (f" ({self.year})" if self.year else ""), self.title, self.where, self.link]
        return ". ".join(part for part in parts if part) + ("" if self.link else ".")

    def bibtex(self) -> str:
        """Return the reference as a BibTeX entry."""
        field = {"article": "journal", "inproceedings": "booktitle"}.get(self.kind, "howpublished")
        fields = {
            "author": " and ".join(self.authors),
            "title": f"{{{self.title}}}",
            "year": self.year,
            field: self.where,
            "doi": self.doi,
            "url": self.url,
        }
        plain = ("doi", "url")  # taken as they are
        lines = [f"  {k} = {{{v if k in plain else _escaped(v)}}}," for k, v in fields.items() if v]
        return "\n".join([f"@{self.kind}{{{self.key},", *lines, "}"])


def _short(name: str) -> str:
    """``"Family, Given Other"`` as ``"Family GO"``; a name in braces as it is."""
    family, _, given = name.strip("{}").partition(", ")
    return f"{family} {''.join(part[0] for part in given.split())}".strip()


def _escaped(text: str) -> str:
    return text.replace("&", r"\&").replace("%", r"\%").replace("_", r"\_")


TABLE: dict[str, Reference] = {
    reference.key: reference
    for reference in (
        Reference(
            "ganmor2016",
            "article",
            ("Ganmor, Elad", "Krumin, Michael", "Rossi, Luigi F.", "Carandini, Matteo", "Simoncelli, Eero P."),
            "2016",
            "Direct estimation of firing rates from calcium imaging data",
            "arXiv:1601.00364",
            doi="10.48550/arXiv.1601.00364",
            role="summing over the unseen spikes",
        ),
        Reference(
            "keeley2025",
            "article",
            ("Keeley, Stephen L.", "Zoltowski, David M.", "Charles, Adam S.", "Pillow, Jonathan W."),
            "2025",
            "Improved inference of latent neural states from calcium imaging data",
            "bioRxiv 2025.10.17.682993",
            doi="10.1101/2025.10.17.682993",
            role="latent-variable models of calcium traces",
        ),
        Reference(
            "speiser2017",
            "inproceedings",
            (
                "Speiser, Artur",
                "Yan, Jinyao",
                "Archer, Evan",
                "Buesing, Lars",
                "Turaga, Srinivas C.",
                "Macke, Jakob H.",
            ),
            "2017",
            "Fast amortized inference of neural activity from calcium imaging data with variational autoencoders",
            "Advances in Neural Information Processing Systems 30",
            doi="10.48550/arXiv.1711.01846",
            role="recognition networks of generative models",
        ),
        Reference(
            "deneux2016",
            "article",
            ("Deneux, Thomas", "others"),
            "2016",
            "Accurate spike estimation from noisy calcium signals for ultrafast three-dimensional imaging of large "
            "neuronal populations in vivo",
            "Nature Communications 7, 12190",
            doi="10.1038/ncomms12190",
            role="physiological model of the indicator",
        ),
        Reference(
            "rabiner1989",
            "article",
            ("Rabiner, Lawrence R.",),
            "1989",
            "A tutorial on hidden Markov models and selected applications in speech recognition",
            "Proceedings of the IEEE 77, 257-286",
            doi="10.1109/5.18626",
            role="hidden Markov model",
        ),
        Reference(
            "yu2009",
            "article",
            (
                "Yu, Byron M.",
                "Cunningham, John P.",
                "Santhanam, Gopal",
                "Ryu, Stephen I.",
                "Shenoy, Krishna V.",
                "Sahani, Maneesh",
            ),
            "2009",
            "Gaussian-process factor analysis for low-dimensional single-trial analysis of neural population activity",
            "Journal of Neurophysiology 102, 614-635",
            doi="10.1152/jn.90941.2008",
            role="Gaussian-process factor analysis",
        ),
        Reference(
            "pandarinath2018",
            "article",
            ("Pandarinath, Chethan", "others"),
            "2018",
            "Inferring single-trial neural population dynamics using sequential auto-encoders",
            "Nature Methods 15, 805-815",
            doi="10.1038/s41592-018-0109-9",
            role="latent factor analysis via dynamical systems (LFADS)",
        ),
        Reference(
            "keshtkaran2022",
            "article",
            ("Keshtkaran, Mohammad Reza", "others"),
            "2022",
            "A large-scale neural network training framework for generalized estimation of single-trial population "
            "dynamics",
            "Nature Methods 19, 1572-1577",
            doi="10.1038/s41592-022-01675-0",
            role="coordinated dropout",
        ),
        Reference(
            "minka2001",
            "inproceedings",
            ("Minka, Thomas P.",),
            "2001",
            "Expectation propagation for approximate Bayesian inference",
            "Proceedings of the 17th Conference on Uncertainty in Artificial Intelligence, 362-369",
            url="https://arxiv.org/abs/1301.2294",
            role="expectation propagation, for measurement noise",
        ),
        Reference(
            "sebastian2021",
            "article",
            ("Sebastian, Jilt", "Sur, Mriganka", "Murthy, Hema A.", "Magimai-Doss, Mathew"),
            "2021",
            "Signal-to-signal neural networks for improved spike estimation from calcium imaging data",
            "PLOS Computational Biology 17, e1007921",
            doi="10.1371/journal.pcbi.1007921",
            role="signal-to-signal networks",
        ),
        Reference(
            "rupprecht2021",
            "article",
            ("Rupprecht, Peter", "others"),
            "2021",
            "A database and deep learning toolbox for noise-optimized, generalized spike inference from calcium "
            "imaging",
            "Nature Neuroscience 24, 1324-1337",
            doi="10.1038/s41593-021-00895-5",
            role="noise level, and recordings with known spikes",
        ),
        Reference(
            "friedrich2017",
            "article",
            ("Friedrich, Johannes", "Zhou, Pengcheng", "Paninski, Liam"),
            "2017",
            "Fast online deconvolution of calcium imaging data",
            "PLOS Computational Biology 13, e1005423",
            doi="10.1371/journal.pcbi.1005423",
            role="deconvolution (OASIS)",
        ),
        Reference(
            "ruebel2022",
            "article",
            ("Rübel, Oliver", "others"),
            "2022",
            "The Neurodata Without Borders ecosystem for neurophysiological data science",
            "eLife 11, e78362",
            doi="10.7554/eLife.78362",
            role="Neurodata Without Borders (NWB)",
        ),
        Reference(
            "pachitariu2017",
            "article",
            ("Pachitariu, Marius", "others"),
            "2017",
            "Suite2p: beyond 10,000 neurons with standard two-photon microscopy",
            "bioRxiv 061507",
            doi="10.1101/061507",
            role="ROIs and traces (Suite2p)",
        ),
        Reference(
            "ndx_calcium_lvm",
            "misc",
            ("{The nwb_calcium_lvm developers}",),
            "",
            "ndx-calcium-lvm: an NWB extension for latent-variable models of calcium imaging",
            "software",
            role="how the result is stored",
        ),
        Reference(
            "nwb_calcium_lvm",
            "misc",
            ("{The nwb_calcium_lvm developers}",),
            "",
            "nwb_calcium_lvm: latent-variable models for calcium imaging, from NWB and back into NWB",
            "software",
            role="this software",
        ),
    )
}
