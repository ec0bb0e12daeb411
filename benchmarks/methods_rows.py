"""What `benchmarks/methods.py` trains, and which of its rows each paper's claims compare, by the paper's own measure."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """`sets` are overrides of the config; `of` names a row whose trained weights this one only reads in another way."""

    config: str
    sets: tuple[str, ...] = ()
    root: str = "phantom"
    of: str = ""
    title: str = ""


def ham(*sets: str, root: str = "phantom", title: str = "") -> Row:
    return Row("ham", tuple(f"method.{one}" for one in sets), root, title=title)


SEVEN = ("cam", "patch_mil", "ham", "attention_mining", "disease_masks", "ag_cnn", "cia_net")
PLAIN = ("positive_weight=0", "bound_weight=0", "union_weight=0")
BOXES = ("box_weight=0.5",)
SEVEN_CELLS = ("method.backbone.output_stride=32", "method.taus=[0.1,0.3,0.5,0.7,0.9]")
ROWS = {
    "cam": Row("cam", title="classifier, LSE"),
    "patch_mil": Row("patch_mil", title="patches, noisy-OR"),
    "ham": Row("ham", title="HAM without boxes"),
    "attention_mining": Row("attention_mining", title="attention mining, t = 3"),
    "disease_masks": Row("disease_masks", title="disease masks"),
    "ag_cnn": Row("ag_cnn", title="AG-CNN, fusion"),
    "cia_net": Row("cia_net", root="phantom-0", title="CIA-Net without boxes"),
    "patch-plain": Row("patch_mil", ('method.instances.form="plain"',), title="patches, plain noisy OR"),
    "patch-80": Row("patch_mil", ("method.box_weight=1.0",), "phantom-80", title="patches, 80 % of boxes"),
    # parts of HAM
    "cam-32-mean": Row("cam", ('method.pooling="mean"', "method.backbone.output_stride=32"), title="stride 32, mean"),
    "cam-8-mean": Row("cam", ('method.pooling="mean"',), title="stride 8, mean"),
    "ham-fab": ham(*PLAIN, title="+ FAB"),
    "ham-fab-pa": ham("bound_weight=0", "union_weight=0", title="+ FAB + PA"),
    "ham-boxes": ham(*BOXES, root="phantom-80", title="HAM, 80 % of boxes, AMSE"),
    "ham-boxes-mse": ham(*BOXES, 'box_loss="mse"', root="phantom-80", title="HAM, 80 % of boxes, MSE"),
    "ham-place": ham(*BOXES, root="phantom-place", title="place only: HAM, 80 % of boxes on noise"),
    "ham-boxes-sr": ham(*BOXES, "self_refinement=true", root="phantom-80", title="HAM, 80 % of boxes, self-refinement"),
    "ham-boxes-little": ham("box_weight=0.05", root="phantom-80", title="HAM, 80 % of boxes, z = .05"),
    "ham-boxes-warmup": ham(
        *BOXES, "attend.terms.boxes.warmup=2.0", root="phantom-80", title="… z = .5, a warm-up of two epochs"
    ),
    "ham-boxes-limit": ham(
        *BOXES, "attend.terms.boxes.most=0.3", root="phantom-80", title="… z = .5, .3 of the gradient at most"
    ),
    "ham-boxes-share": ham(*BOXES, "attend.most_boxed=0.1", root="phantom-80", title="… z = .5, a tenth of a batch boxed"),
    # attention mining
    "am-scaled": Row(
        "attention_mining", ("method.scaled=true",), of="attention_mining", title="each step's map scaled before eq. 8"
    ),
    "am-t1": Row("attention_mining", ("method.shown=1",), of="attention_mining", title="maps of one step"),
    "am-kp-none": Row("attention_mining", ('method.preservation="none"',), title="no knowledge preservation"),
    "am-msa-32": Row("attention_mining", ("method.steps=0", "method.backbone.output_stride=32"), title="MSA at stride 32"),
    "am-none-32": Row(
        "attention_mining",
        ("method.steps=0", 'method.upsample="none"', "method.backbone.output_stride=32"),
        title="stride 32 without MSA",
    ),
    # AG-CNN
    "ag-global": Row("ag_cnn", ('method.answer="global"',), of="ag_cnn", title="AG-CNN, global branch"),
    "ag-local": Row("ag_cnn", ('method.answer="local"',), of="ag_cnn", title="AG-CNN, local branch"),
    "ag-glf": Row("ag_cnn", ('method.order="GLF"', "method.fusion_branch.epochs=6"), title="AG-CNN, all at once"),
    "ag-long": Row(
        "ag_cnn",
        ("method.global_branch.epochs=12", "method.local_branch.epochs=12", "method.fusion_branch.epochs=4"),
        title="AG-CNN, 28 epochs, fusion",
    ),
    "ag-long-global": Row("ag_cnn", ('method.answer="global"',), of="ag-long", title="AG-CNN, 28 epochs, global"),
    "ag-long-local": Row("ag_cnn", ('method.answer="local"',), of="ag-long", title="AG-CNN, 28 epochs, local"),
    # as printed, with --side 224: 7 × 7 cells, τ chosen on validation
    "ag-7": Row("ag_cnn", SEVEN_CELLS, title="AG-CNN, 7 × 7 cells, fusion"),
    "ag-7-global": Row(
        "ag_cnn", (*SEVEN_CELLS, 'method.answer="global"'), of="ag-7", title="AG-CNN, 7 × 7 cells, global branch"
    ),
    "ag-7-local": Row(
        "ag_cnn", (*SEVEN_CELLS, 'method.answer="local"'), of="ag-7", title="AG-CNN, 7 × 7 cells, local branch"
    ),
    # CIA-Net
    "cia-plain": Row("cia_net", ('method.instances.form="plain"',), "phantom-0", title="CIA-Net, plain noisy OR"),
    "cia-base": Row("cia_net", ("method.contrast=false",), "phantom-0", title="CIA-Net's base"),
    "cia-unaligned": Row("cia_net", ("method.aligned=false",), "phantom-0", title="CIA-Net, images as they are"),
    "cia-random": Row("cia_net", ('method.partner="random"',), "phantom-0", title="random partners"),
    "cia-canonical": Row("cia_net", ('method.partner="canonical"',), "phantom-0", title="canonical partner"),
    "cia-40": Row("cia_net", ("method.box_weight=1.0",), "phantom-40", title="40 % of boxes"),
    "cia-80": Row("cia_net", ("method.box_weight=1.0",), "phantom-80", title="80 % of boxes"),
    # disease masks
    "dm-none": Row("disease_masks", ('method.masks="none"', "method.classify.epochs=12"), title="alignment alone"),
    "dm-pseudo": Row("disease_masks-pseudo", title="pseudo masks"),
    # real images: FOLDER/real is a link to them; skipped where there is none
    **{f"real-{name}": Row(name, root="real", title=name) for name in SEVEN},
    "moved-plain": Row(
        "disease_masks",
        ('method.masks="none"', "method.aligned=false", "method.classify.epochs=12"),
        root="phantom-moved",
        title="misaligned, as they are",
    ),
    "moved-aligned": Row(
        "disease_masks",
        ('method.masks="none"', "method.classify.epochs=12"),
        root="phantom-moved",
        title="misaligned, aligned",
    ),
}


@dataclass(frozen=True)
class Measure:
    """What is counted: a score, its limit, and how maps are cut; `finding` "" stands for the mean over all."""

    what: str = "T(IoU)"
    at: float = 0.3
    geometry: str = "mask"
    rule: str = "validation"
    finding: str = ""

    def __str__(self) -> str:
        limit = "" if self.what == "AUC" else f" {self.at:g}, {self.geometry}, {self.rule}".replace("0.", ".")
        return f"{self.what}{limit}{f', {self.finding}' if self.finding else ''}"


AUC = Measure("AUC")
HEADLINE = Measure()


@dataclass(frozen=True)
class Claim:
    """`measure` is the paper's own; `printed` is the difference that the paper prints, on its data."""

    paper: str
    text: str
    better: str
    worse: str
    measure: Measure
    printed: float | None = None


OWN_1, OWN_3, OWN_7 = (Measure(at=at, rule="own") for at in (0.1, 0.3, 0.7))
LARGEST = Measure(geometry="largest", rule="own")
ANY = Measure(geometry="any", rule="own")
CLAIMS = (
    Claim("HAM", "stride 8 localizes better than 32", "cam-8-mean", "cam-32-mean", OWN_1, 0.02),
    Claim("HAM", "LSE pooling localizes better than the mean", "cam", "cam-8-mean", OWN_1, 0.05),
    Claim("HAM", "the foreground block (FAB) localizes better", "ham-fab", "cam", OWN_1, 0.17),
    Claim("HAM", "positive attention (PA) localizes better", "ham-fab-pa", "ham-fab", OWN_1, 0.02),
    Claim("HAM", "bound and union losses localize better", "ham", "ham-fab-pa", OWN_1, 0.07),
    Claim("HAM", "HAM without boxes localizes better than the classifier", "ham", "cam", OWN_1, 0.26),
    Claim("HAM", "HAM's AUC is higher", "ham", "cam", AUC, 0.003),
    Claim("HAM", "boxes localize better than none", "ham-boxes", "ham", OWN_3, 0.24),
    Claim("HAM", "AMSE localizes better than MSE", "ham-boxes", "ham-boxes-mse", OWN_3, 0.08),
    Claim("HAM", "self-refinement raises T(IoR)", "ham-boxes-sr", "ham-boxes", Measure("T(IoR)", 0.5, rule="own"), 0.07),
    Claim("Attention mining", "three steps localize better than one", "attention_mining", "am-t1", ANY, 0.02),
    Claim("Attention mining", "… with each step's map scaled", "am-scaled", "am-t1", ANY, 0.02),
    Claim("Attention mining", "knowledge preservation localizes better", "attention_mining", "am-kp-none", ANY, 0.13),
    Claim(
        "Attention mining",
        "MSA localizes nodules better",
        "am-msa-32",
        "am-none-32",
        Measure(geometry="any", rule="own", finding="Nodule"),
        0.20,
    ),
    Claim("AG-CNN", "fusion has a higher AUC than the global branch", "ag_cnn", "ag-global", AUC, 0.027),
    Claim("AG-CNN", "fusion has a higher AUC than the local branch", "ag_cnn", "ag-local", AUC, 0.051),
    Claim("AG-CNN", "fusion over the global branch, with 28 epochs", "ag-long", "ag-long-global", AUC, 0.027),
    Claim("AG-CNN", "fusion over the local branch, with 28 epochs", "ag-long", "ag-long-local", AUC, 0.051),
    Claim("AG-CNN", "fusion over the global branch, 7 × 7 cells", "ag-7", "ag-7-global", AUC, 0.027),
    Claim("AG-CNN", "fusion over the local branch, 7 × 7 cells", "ag-7", "ag-7-local", AUC, 0.051),
    Claim("AG-CNN", "training one after the other (G_L_F) is better than all at once", "ag_cnn", "ag-glf", AUC, 0.019),
    Claim("CIA-Net", "contrast-induced attention localizes better than the base", "cia_net", "cia-base", OWN_1, 0.06),
    Claim("CIA-Net", "similar partners are better than random ones", "cia_net", "cia-random", OWN_7, 0.04),
    Claim("CIA-Net", "random partners are better than a canonical one", "cia-random", "cia-canonical", OWN_7, 0.06),
    Claim("CIA-Net", "80 % of boxes are better than 40 %", "cia-80", "cia-40", OWN_3, 0.05),
    Claim("CIA-Net", "40 % of boxes are better than none", "cia-40", "cia_net", OWN_3, 0.12),
    Claim(
        "Li 2018",
        "squeezed patches localize by their own rule, a plain product does not",
        "patch_mil",
        "patch-plain",
        OWN_1,
        0.57,
    ),
    Claim("Li 2018", "boxes localize better than none", "patch-80", "patch_mil", OWN_1, 0.16),
    Claim("Disease masks", "masks are better than alignment alone", "disease_masks", "dm-none", LARGEST, 0.10),
    Claim("Disease masks", "masks from data are better than pseudo masks", "disease_masks", "dm-pseudo", LARGEST, 0.04),
    Claim(
        "Disease masks", "alignment is better than none, on misaligned images", "moved-aligned", "moved-plain", LARGEST, 0.06
    ),
)


def run_of(folder: Path, name: str, seed: int, times: int = 1) -> Path:
    """Where a row is trained, with so many times the epochs of its config."""
    return folder / "runs" / f"{name}-{seed}{f'-x{times}' if times > 1 else ''}"
