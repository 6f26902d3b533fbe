"""What a change reruns: for every key of the configuration and every module of the library, exactly that.

The small workflow has run to its end (fixture ``project``); each case is a dry run after one change.
"""

from __future__ import annotations

import copy
import re
import sys

import pytest
import yaml
from planning import plans, snakemake
from test_workflow import scripts_and_libraries

from interptfm import config as settings
from interptfm import dependencies, store

REPORT = {"write_report", "record_provenance"}
ATLAS = {"write_atlas", "record_provenance"}
RECOVERY = {"recover"} | REPORT
COMPARISON = {"compare_representations"} | RECOVERY
PAIRS = {"recover_pairs"} | REPORT
EVIDENCE = {"collect_evidence"} | REPORT
CROSSTALK = {"crosstalk_section", "combine_crosstalk"} | PAIRS | EVIDENCE
ACTIVITY = {"score_activity"} | CROSSTALK
# What lies behind the choice (baselines, the reading of features) is planned once it is made anew.
CHOICE = {"choose_layer"} | COMPARISON | ACTIVITY
STEERING = {"steer", "map_steered", "recover_steering"} | REPORT | ATLAS
PREPARED = {"prepare_screen"} | STEERING
TOWARDS = {"steer_towards"} | EVIDENCE
SCREEN = {"simulate_screen"} | PREPARED
ALIGNMENT = {"align", "absorption"} | CHOICE | STEERING | ATLAS
READING = {"read_features"} | REPORT
BASELINES = {"fit_baseline", "encode_baseline", "align"} | COMPARISON
DIRECTIONS = {"compare_directions"} | REPORT
SPARSE = {"sparse_probes"} | REPORT
PROBES = {"fit_probes"} | DIRECTIONS | STEERING | TOWARDS
UNIT_RECOVERY = {"recover_units"} | REPORT
REGIONS = {"call_regions"} | UNIT_RECOVERY | CROSSTALK | ATLAS
TIS = {"score_units"} | REGIONS
SCORES = {"score_units"} | REPORT | ATLAS  # of a space that no compartment is called from
CONCEPTS = {"build_concepts"} | ALIGNMENT | PROBES | PREPARED
NEURONS = {"encode_neurons"} | ALIGNMENT
FEATURES = {"encode", "aggregate"} | ALIGNMENT | SCORES
DICTIONARY = {"train_dictionary", "dictionary_quality"} | FEATURES
ACTIVATIONS = {"extract"} | DICTIONARY | NEURONS | TIS | PROBES
MODEL = {"build_model"} | ACTIVATIONS
CELLS = {"ingest"} | CONCEPTS | MODEL
TISSUE = {"simulate"} | CELLS
SIMULATION = TISSUE | SCREEN
MAIN_ARM_ONLY = {"choose_layer", "dictionary_quality", "absorption", "score_activity", "compare_directions"}
MAIN_ARM_ONLY |= {"steer_towards"}
UNTRAINED = MODEL - {"encode_neurons"} - MAIN_ARM_ONLY
ARM = UNTRAINED - (TIS - REPORT) - {"fit_probes", "aggregate"} - (STEERING - REPORT)

# Key -> another value than in tests/tiny.yaml, and the rules that it touches.
CHANGES: dict[str, tuple[object, set[str]]] = {
    "seed": (2, SIMULATION),
    "simulate.cells": (500, TISSUE),
    "simulate.fovs_per_section": (3, TISSUE),
    "simulate.strength": (2, SIMULATION),
    "simulate.negative_probes": (9, TISSUE),
    "simulate.communication": (False, TISSUE),
    "cells.min_genes": (12, CELLS),
    "cells.genes": ("half_a", MODEL),
    "cells.blocks.unit": ("fov", CELLS),
    "cells.blocks.size_um": (70, CELLS),
    "cells.blocks.guard_um": (6, CELLS),
    "cells.split.train": (0.5, CELLS),
    "cells.split.validation": (0.25, CELLS),
    "cells.split.test": (0.25, CELLS),
    "cells.clustering.resolution": (2.0, CELLS),
    "ontology.source": ("gprofiler_csv", CONCEPTS),
    "ontology.obo": ("resources/demo_ontology/demo.gaf", CONCEPTS),  # any file: the plan does not read it
    "ontology.gaf": ("resources/demo_ontology/demo.obo", CONCEPTS),
    "ontology.table": ("tests/tiny.yaml", CONCEPTS),
    "ontology.evidence": (["EXP"], CONCEPTS),
    "ontology.keep_without_evidence": (["KEGG"], CONCEPTS),
    "ontology.aspects": (["P"], CONCEPTS),
    "ontology.relations": (["is_a"], CONCEPTS),
    "ontology.min_genes": (6, CONCEPTS),
    "ontology.max_fraction": (0.3, CONCEPTS),
    "ontology.slim": ("resources/demo_ontology/demo.obo", READING),
    # The demo's files are read, the service is not asked; the report shows the whole configuration.
    "ontology.gprofiler.base_url": ("https://biit.cs.ut.ee/gprofiler", REPORT),
    "ontology.gprofiler.organism": ("mmusculus", REPORT),
    "ontology.gprofiler.sources": (["KEGG"], REPORT),
    "ontology.gprofiler.timeout": (5, REPORT),
    "ontology.gprofiler.cache": (None, REPORT),
    "model.backend": ("scgpt", ACTIVATIONS),
    "model.init": ("svd_only", MODEL),
    "model.embsize": (64, MODEL),
    "model.nheads": (4, MODEL),
    "model.d_hid": (64, MODEL),
    "model.nlayers": (4, MODEL),
    "model.n_layers_cls": (2, MODEL),
    "model.dropout": (0.2, MODEL),
    "model.n_bins": (31, MODEL),
    "model.pretrain.epochs": (3, MODEL),
    "model.pretrain.batch_cells": (8, MODEL),
    "model.pretrain.learning_rate": (0.002, MODEL),
    "model.pretrain.mask_ratios": ([0.5], MODEL),
    "model.pretrain.warmup_fraction": (0.1, MODEL),
    "model.pretrain.patience": (2, MODEL),
    "model.pretrain.weight_decay": (0.1, MODEL),
    "model.pretrain.gradient_clip": (2.0, MODEL),
    "activations.layers": ([0, 1, 2], ACTIVATIONS - {"steer_towards"}),  # steered is the first, as before
    "activations.dtype": ("float32", ACTIVATIONS),
    "activations.mantissa_bits": (7, ACTIVATIONS),
    "activations.mode": ("log1p", MODEL),
    "activations.max_length": (100, MODEL),
    "activations.batch_tokens": (8192, ACTIVATIONS),
    "dictionaries.0.name": ("other", DICTIONARY),
    "dictionaries.0.layers": ([1], CHOICE | ATLAS),
    "dictionaries.0.n_features": (128, DICTIONARY),
    "dictionaries.0.k": (5, DICTIONARY),
    "dictionaries.0.training_tokens": (50_000, DICTIONARY),
    "dictionaries.0.batch_tokens": (512, DICTIONARY),
    "dictionaries.0.learning_rate": (0.001, DICTIONARY),
    "dictionaries.0.warmup_fraction": (0.1, DICTIONARY),
    "dictionaries.0.decay_fraction": (0.1, DICTIONARY),
    "dictionaries.0.aux_coefficient": (0.1, DICTIONARY),
    "dictionaries.0.dead_after_tokens": (1000, DICTIONARY),
    "dictionaries.0.buffer_bytes": (20_000_000, DICTIONARY),
    "dictionaries.0.seeds": (3, {"train_seed", "stability"} | ALIGNMENT),
    "features.thresholds": ([0, 0.5], FEATURES | NEURONS),
    "features.top_tokens": (10, {"aggregate"} | READING | SCORES | ACTIVITY),
    "features.grid": ([0, 0.5], FEATURES | NEURONS),
    "alignment.permutations": (30, ALIGNMENT),
    "alignment.strata": (4, ALIGNMENT),
    "alignment.max_q": (0.1, ALIGNMENT),
    "alignment.min_lift": (0.1, ALIGNMENT),
    "alignment.bootstrap": (50, ALIGNMENT),
    "alignment.gene_folds": (3, ALIGNMENT),
    "alignment.gene_min_genes": (8, ALIGNMENT),
    "alignment.threshold_from": ("test", ALIGNMENT),
    "alignment.min_positive_tokens": (10, ALIGNMENT),
    "alignment.min_f1": (0.5, ALIGNMENT),
    "baselines.names": (["pca", "nmf"], COMPARISON),
    "baselines.components": (8, BASELINES),
    "reading.lin": (0.5, READING),
    "reading.n_top_genes": (10, READING),
    "reading.n_predicted": (5, READING),
    "reading.permutations": (30, READING),
    "tis.units": (
        [
            {"name": "cls", "source": "cls", "layers": "all"},
            {"name": "features", "source": "features", "aggregate": "max", "layers": "last"},
        ],
        SCORES,
    ),
    "tis.similarity": ("spearman", TIS),
    "tis.embedding": ("config/samples.tsv", TIS),
    "tis.references": (5, TIS),
    "tis.tasks": (60, TIS),
    "tis.quantile": (0.3, TIS),
    "tis.shuffles": (50, TIS),
    "tis.controls": (9, TIS),
    "tis.components": (5, TIS),
    "tis.max_cells": (100, TIS),
    "tis.bootstrap": (30, TIS),
    "tis.matched.cell_type": (False, TIS),
    "tis.matched.depth_strata": (2, TIS),
    "tis.matched.depth_quantile": (0.2, TIS),
    "tis.untrained_arm": (None, TIS),
    "tis.held_out_arm": (None, TIS),
    "tis.legacy": (True, TIS),
    "regions.units": ("features", REGIONS),
    "regions.layer": (0, REGIONS),
    "regions.tumour.types": ("cancer", REGIONS),
    "regions.tumour.markers": (["EPCAM"], REGIONS),
    "regions.interface_um": (20, REGIONS),
    "regions.top_units": (20, REGIONS),
    "regions.max_q": (0.1, REGIONS),
    "regions.high_quantile": (0.7, REGIONS),
    "regions.call_quantile": (0.5, REGIONS),
    "regions.depth_strata": (2, REGIONS),
    "regions.min_cells": (6, REGIONS),
    "regions.markers.tumour": (["EPCAM"], REGIONS),
    "regions.markers.immune": (["PTPRC"], REGIONS),
    "regions.markers.stroma": (["DCN"], REGIONS),
    "regions.markers.endothelium": (["VWF"], REGIONS),
    "regions.bootstrap": (30, REGIONS),
    "regions.legacy": (True, REGIONS),
    "activity.source": ("genes", ACTIVITY),
    "activity.aggregate": ("max", ACTIVITY),
    "activity.pairs": ("best", ACTIVITY),
    "activity.max_q": (0.1, ACTIVITY),
    "activity.min_lift": (0.1, ACTIVITY),
    "activity.min_f1_validation": (0.1, ACTIVITY),
    "activity.rollup.alpha": (0.7, ACTIVITY),
    "activity.rollup.hops": (1, ACTIVITY),
    "activity.channels": ("tests/tiny.yaml", ACTIVITY),  # any file: the plan does not read it
    "activity.bootstrap": (30, ACTIVITY),
    "crosstalk.compartments": ("geometric", CROSSTALK),
    "crosstalk.graph.kind": ("nearest", CROSSTALK),
    "crosstalk.graph.radius_um": (40, CROSSTALK),
    "crosstalk.graph.k": (6, CROSSTALK),
    "crosstalk.graph.mode": ("mutual", CROSSTALK),
    "crosstalk.graph.weights": ("none", CROSSTALK),
    "crosstalk.graph.length_um": (15, CROSSTALK),
    "crosstalk.graph.path": ("tests/{sample}.h5ad", CROSSTALK),  # read where kind is obsp
    "crosstalk.nulls.match_um": (40, CROSSTALK),
    "crosstalk.nulls.shortest_um": (60, CROSSTALK),
    "crosstalk.nulls.permutations.channels": (30, CROSSTALK),
    "crosstalk.nulls.permutations.pairs": (30, CROSSTALK),
    "crosstalk.nulls.others": (["labels"], CROSSTALK),
    "crosstalk.contrasts": ("tests/tiny.yaml", CROSSTALK),  # any file: the plan does not read it
    "crosstalk.min_edges": (30, CROSSTALK),
    "crosstalk.max_concepts": (10, CROSSTALK),
    "crosstalk.max_r": (0.4, CROSSTALK),
    "crosstalk.max_q": (0.1, CROSSTALK),
    "crosstalk.claims": (40, CROSSTALK),
    "crosstalk.edge_pairs": (1, CROSSTALK),
    "crosstalk.contact_um": (20, CROSSTALK),
    "crosstalk.tau": (3, CROSSTALK),
    "crosstalk.decay_um": (100, CROSSTALK),
    "crosstalk.bootstrap": (30, CROSSTALK),
    "crosstalk.legacy": (True, CROSSTALK),
    "crosstalk.features.dictionary": ("batchtopk", REPORT),  # named, it is the one that null stands for
    "probes.kinds": (["difference"], PROBES),
    "probes.gene_folds": (4, PROBES | SPARSE),
    "probes.min_genes": (8, PROBES | SPARSE),
    "probes.ridge.strengths": ([0.1], PROBES),
    "probes.logistic.tokens": (500, PROBES),
    "probes.logistic.strengths": ([0.1], PROBES),
    "probes.logistic.iterations": (5, PROBES),
    "probes.sparse.max_features": (2, SPARSE),
    "probes.arms": ([], STEERING),
    "probes.bootstrap": (30, PROBES),
    "probes.legacy": (True, PROBES),
    "steering.data": (None, REPORT | ATLAS),  # the tables of a screen are no longer asked for
    "steering.column": ("target", PREPARED),
    "steering.control": ("ctrl", PREPARED),
    "steering.dictionary": ("batchtopk", REPORT),  # by name what was the first
    "steering.layer": (0, STEERING | TOWARDS),
    "steering.direction": ("ridge", STEERING | TOWARDS),
    "steering.position": ("cls", STEERING),
    "steering.doses": ([-1, 1], STEERING),
    "steering.dose_by": ("distance", STEERING),
    "steering.cells": (7, STEERING),
    "steering.random.directions": (30, STEERING | TOWARDS),
    "steering.random.cells": (4, STEERING | TOWARDS),
    "steering.min_cells": (12, PREPARED),
    "steering.classifier_seeds": (3, STEERING),
    "steering.top_genes": (10, STEERING),
    "steering.bootstrap": (30, STEERING | TOWARDS),
    "steering.max_q": (0.1, STEERING),
    "steering.untrained_arm": (None, STEERING),
    "steering.concepts.cell_type": ("B cell", TOWARDS),
    "steering.concepts.dose": (1, TOWARDS),
    "steering.concepts.cells": (4, TOWARDS),
    "steering.concepts.terms": (5, TOWARDS),
    "steering.concepts.min_genes": (11, TOWARDS),
    "steering.screen.targets": (4, SCREEN),
    "steering.screen.cells": (30, SCREEN),
    "steering.screen.controls": (90, SCREEN),
    "steering.screen.types": (["tumour"], SCREEN),
    "evidence.untrained_arm": (None, EVIDENCE),
    "evidence.permutations": (30, EVIDENCE),
    "evidence.max_q": (0.1, EVIDENCE),
    "evidence.aggregate": ("max", EVIDENCE),
    "evidence.compartment.by": ("called", EVIDENCE),
    "evidence.compartment.min_effect": (0.3, EVIDENCE),
    "evidence.channel.levels": (["concept pair"], EVIDENCE),
    "evidence.stain.min_r": (0.2, EVIDENCE),
    "evidence.steering.min_effect": (0.5, EVIDENCE),
    "evidence.grades.strong.required": (["channel"], EVIDENCE),
    "evidence.grades.strong.at_least": (4, EVIDENCE),
    "evidence.grades.moderate.required": (["compartment"], EVIDENCE),
    "evidence.grades.moderate.at_least": (1, EVIDENCE),
    "evidence.bootstrap": (30, EVIDENCE),
    # No part of `all`, and no part of what the report shows.
    "annotate.path": ("tests/tiny.yaml", set()),  # any file: the plan does not read it
    "annotate.name": ("mine", set()),
    "annotate.counts": ("umi", set()),
    "annotate.symbols": ("symbol", set()),
    "annotate.group": ("cell_type", set()),
    # Of extras.
    "comparators.names": (["squidpy"], set()),
    "comparators.communication.interactions": (None, set()),
    "comparators.communication.resource": ("cellphonedb", set()),
    "comparators.communication.permutations": (50, set()),
    "comparators.communication.min_fraction": (0.2, set()),
    "comparators.communication.min_cells": (5, set()),
    "comparators.communication.max_q": (0.1, set()),
    **{
        f"comparators.scvi.{key}": (value, set())
        for key, value in (
            ("n_latent", 5),
            ("n_hidden", 32),
            ("n_layers", 2),
            ("likelihood", "zinb"),
            ("epochs", 3),
            ("batch_cells", 64),
            ("learning_rate", 0.01),
        )
    },
    **{
        f"comparators.mofa.{key}": (value, set())
        for key, value in (
            ("factors", 5),
            ("concepts", 20),
            ("iterations", 50),
            ("convergence", "fast"),
            ("min_r2", 0.02),
            ("permutations", 50),
            ("bootstrap", 30),
        )
    },
    "comparators.totalvi.proteins": ("tests/tiny.yaml", set()),  # any file: the plan does not read it
    "comparators.multivi.atac": ("tests/tiny.yaml", set()),
    **{
        f"comparators.{system}.{key}": (value, set())
        for system in ("totalvi", "multivi")
        for key, value in (("n_latent", 5), ("epochs", 3), ("batch_cells", 64), ("learning_rate", 0.01))
    },
    "comparators.tangram.reference": ("tests/tiny.yaml", set()),
    **{
        f"comparators.tangram.{key}": (value, set())
        for key, value in (
            ("group", "label"),
            ("epochs", 5),
            ("held_out", 0.5),
            ("bootstrap", 30),
        )
    },
    "comparators.nichenet.matrix": ("tests/tiny.yaml", set()),
    **{
        f"comparators.nichenet.{key}": (value, set())
        for key, value in (
            ("genes", 10),
            ("min_fraction", 0.1),
            ("min_cells", 5),
            ("permutations", 50),
            ("max_q", 0.1),
        )
    },
    "atlas.enabled": (False, REPORT),  # which shows the configuration
    "atlas.spots": (200, REPORT | ATLAS),
    "atlas.bootstrap": (30, REPORT | ATLAS),
    # No part of `all` either.
    "gene_text.enabled": (False, set()),
    "gene_text.texts": ("tests/tiny.yaml", set()),  # any file: the plan does not read it
    "gene_text.ncbi.taxon": (10090, set()),
    "gene_text.ncbi.summaries": ("https://example.org/summaries", set()),
    "gene_text.ncbi.genes": ("https://example.org/genes", set()),
    "gene_text.max_terms": (3, set()),
    "gene_text.providers": ([{"name": "words", "kind": "tfidf", "words": 1}], set()),
    "gene_text.cells.forms": (["weighted"], set()),
    "gene_text.cells.genes": (20, set()),
    "gene_text.representations": ([{"name": "other", "path": "{sample}.h5ad", "key": "X"}], set()),
    "gene_text.split.by": ("section", set()),
    "gene_text.split.folds": (3, set()),
    "gene_text.min_cells": (20, set()),
    "gene_text.max_cells": (300, set()),
    "gene_text.rare": (0.5, set()),
    "gene_text.knn.k": (5, set()),
    "gene_text.components": (10, set()),
    "gene_text.contrastive.loss": ("soft_nearest_neighbour", set()),
    "gene_text.contrastive.temperature": (0.5, set()),
    "gene_text.contrastive.hidden": (0, set()),
    "gene_text.contrastive.dimensions": (8, set()),
    "gene_text.contrastive.epochs": (3, set()),
    "gene_text.contrastive.batch": (64, set()),
    "gene_text.contrastive.learning_rate": (0.01, set()),
    "gene_text.contrastive.weight_decay": (0.1, set()),
    "gene_text.contrastive.balanced": (False, set()),
    "gene_text.curve.labels": ([3], set()),
    "gene_text.curve.draws": (1, set()),
    "gene_text.nulls.shuffles": (9, set()),
    "gene_text.nulls.refits": (2, set()),
    "gene_text.terms.min_genes": (8, set()),
    "gene_text.terms.most": (20, set()),
    "gene_text.umap.neighbours": (5, set()),
    "gene_text.umap.min_distance": (0.1, set()),
    "gene_text.max_q": (0.1, set()),
    "gene_text.bootstrap": (30, set()),
    # A control arm reruns its own tree, which has no neurons, quality, or choice of a layer; cell aggregates
    # only where the chain of evidence is compared with it.
    "arms.untrained.model.init": ("svd_only", UNTRAINED),
    "arms.genes_a.cells.genes": ("half_b", {"build_model", "extract"} | TIS),
    "arms.svd_only": ({"model": {"init": "svd_only"}}, ARM),
    "extras.arms.strength_2": ({"simulate": {"strength": 2}}, set()),
    "extras.frontier": ([], set()),
    "environments.data": (sys.executable, set()),
    "fetch.manifest": ("config/samples.tsv", set()),
}
# Keys that name the run or other files; what those change has tests of its own, here or in test_config.py.
ELSEWHERE = {
    *("run", "samples", "data_root", "simulate.enabled", "fetch.enabled", "model.checkpoint"),
    "crosstalk.features.layer",  # which layer is chosen is no constant
    "model.embeddings",  # with backend files only: test_embeddings.py
    # Another architecture has other keys; the first dictionary is of gene tokens.
    "activations.gene_tokens",  # off, it is an error in any arm but that of a judge
    # One value each so far.
    *("dictionaries.0.architecture", "dictionaries.0.tokens"),
}

# Module, or folder of modules -> rules; the longest entry counts.
EDITS: dict[str, set[str]] = {
    "__init__.py": SIMULATION,
    "errors.py": SIMULATION,
    "job.py": SIMULATION,
    "store/": SIMULATION,
    "simulate/": SIMULATION,
    "simulate/perturb.py": SCREEN,
    "simulate/reference.py": set(),  # of extras
    "ontology/": SIMULATION,  # the simulator plants programs in terms that it reads by this package
    "cosmx/": CELLS,
    "blocks.py": CELLS,
    "qc.py": CELLS,
    "pretrain/": MODEL,
    "scgpt/": MODEL,
    "scgpt/package.py": ACTIVATIONS,
    "activations.py": ACTIVATIONS,
    "sae/": DICTIONARY,
    # What the reading of dictionaries needs is loaded with the features' package, neurons or not.
    "sae/__init__.py": DICTIONARY | NEURONS | PROBES | PREPARED,
    "sae/format.py": DICTIONARY | NEURONS | PROBES | PREPARED,
    "sae/inference.py": DICTIONARY | NEURONS | PROBES | PREPARED,
    "sae/sparse.py": DICTIONARY | NEURONS | PROBES | PREPARED,
    "features/": FEATURES | NEURONS | PROBES | PREPARED,
    "features/baselines.py": FEATURES | NEURONS | PROBES,
    "features/cls.py": FEATURES | NEURONS | PROBES,
    "alignment/": ALIGNMENT | PROBES,
    "dictionary_quality/": set(),  # each module below is one rule's own
    "dictionary_quality/__init__.py": {"dictionary_quality", "absorption"} | REPORT,
    "dictionary_quality/recovered.py": {"dictionary_quality"} | REPORT,
    "dictionary_quality/absorption.py": {"absorption"} | REPORT,
    "stats.py": ALIGNMENT | TIS | PROBES,
    "tis/": TIS,
    "tis/__init__.py": TIS | ACTIVITY | TOWARDS,
    "tis/judges.py": TIS | ACTIVITY,
    "tis/units.py": TIS | ACTIVITY | TOWARDS,
    "activity/": ACTIVITY,
    "annotate/": set(),  # another target's
    "gene_text/": set(),
    "comparators/": set(),  # of extras
    "export/": set(),
    "steering/": STEERING | TOWARDS,
    "steering/settings.py": set(),
    "steering/mapping.py": {"map_steered"} | REPORT,
    "steering/towards.py": TOWARDS,
    **{f"steering/{name}.py": STEERING for name in ("analysis", "evaluation", "experiment", "judging")},
    "steering/screen.py": PREPARED,
    "steering/reading.py": PREPARED,
    "steering/directions.py": PREPARED | TOWARDS,
    "steering/__init__.py": PREPARED | TOWARDS,
    "steering_recovery.py": {"recover_steering"} | REPORT,
    "probes/": PROBES | SPARSE,
    "crosstalk/": CROSSTALK,
    "evidence/": EVIDENCE,
    "pair_recovery.py": PAIRS,
    "regions/": REGIONS,
    "unit_recovery.py": UNIT_RECOVERY,
    "recovery.py": CHOICE,
    "headline.py": COMPARISON,
    "reading/": READING,
    "report/": REPORT,
    "atlas/": ATLAS,
    "integrity.py": SIMULATION,
    "provenance.py": {"record_provenance"},
    # Read while the workflow is parsed; what they decide arrives as inputs and params.
    "config.py": ACTIVITY,  # definitions of channels are read and checked as the configuration is
    "schema.py": ACTIVITY,
    "dependencies.py": set(),
    "fetch.py": ACTIVITY,  # the configuration's module reads manifests with it
    "passes.py": set(),
    "spaces.py": set(),
    "reproduce.py": set(),
    # Of extras, or of a run whose activations come from files.
    "embeddings.py": set(),
    "second_model.py": set(),
    "models.py": set(),
}


def leaves(value, path=""):
    """Yield the key paths of a configuration; of the dictionaries, the first one's."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    elif path == "dictionaries":
        yield from leaves(value[0], "dictionaries.0")
    else:
        yield path


def changed(configuration, path, value):
    """Return a copy of a configuration with the value at a key path replaced."""
    result = copy.deepcopy(configuration)
    *parents, last = path.split(".")
    place = result
    for key in parents:
        place = place[int(key)] if key.isdigit() else place.setdefault(key, {})
    place[last] = value
    return result


def test_the_table_has_every_key(root):
    tiny = settings.load_yaml(root / "tests/tiny.yaml")
    keys = {*leaves(settings.load_yaml(root / "config/config.yaml")), *leaves(tiny)}
    # Arms and further seeds are a user's own; a family of environments is any.
    keys = {key for key in keys if not key.startswith(("arms.", "extras.arms.")) and key != "environments"}
    assert keys - CHANGES.keys() - ELSEWHERE == set()


@pytest.fixture(scope="module")
def plans_of_keys(project, tmp_path_factory):
    folder = tmp_path_factory.mktemp("changed")
    tiny, cases = settings.load_yaml(project / "tests/tiny.yaml"), {}
    for key, (value, _) in CHANGES.items():
        file = folder / f"{key}.yaml"
        text = changed(tiny, key, value)
        if key.startswith("cells.split."):
            text["cells"]["split"] = {"train": 0.5, "validation": 0.25, "test": 0.25}
        if key == "ontology.source":
            text["ontology"]["table"] = "tests/tiny.yaml"
        file.write_text(yaml.safe_dump(text))
        cases[key] = {"configs": [str(file)]}
    return plans(project, cases)


@pytest.mark.parametrize("key", CHANGES)
def test_a_changed_key_reruns_what_it_touches(plans_of_keys, key):
    found = plans_of_keys[key]
    assert isinstance(found, dict), found
    assert set(found) == CHANGES[key][1]


def expected_of(module):
    """Return the rules that an edit of a module reruns: those of its longest entry in the table."""
    entries = [name for name in EDITS if module == name or (name.endswith("/") and module.startswith(name))]
    assert entries, f"{module} is not in the table of this test"
    return EDITS[max(entries, key=len)]


@pytest.fixture(scope="module")
def modules_by_use(root):
    """Modules, grouped by the set of rules that declare them: an edit of any of a group plans the same."""
    library, users = root / "scripts/interptfm", {}
    declared = {
        rule: set(dependencies.closure(names, library)) for rule, _, names in scripts_and_libraries(root)
    }
    for path in sorted(library.rglob("*.py")):
        using = frozenset(rule for rule, files in declared.items() if path in files)
        users.setdefault(using, []).append(str(path.relative_to(library)))
    return users


def test_an_edited_module_reruns_the_stages_that_use_it(project, modules_by_use):
    cases = {
        group[0]: {"configs": ["tests/tiny.yaml"], "edit": group[0]} for group in modules_by_use.values()
    }
    found = plans(project, cases)
    assert len(found) > 8
    for group in modules_by_use.values():
        assert isinstance(found[group[0]], dict), found[group[0]]
        for module in group:
            assert set(found[group[0]]) == expected_of(module), module


def test_a_changed_k_leaves_the_baseline_alone(plans_of_keys):
    jobs = plans_of_keys["dictionaries.0.k"]
    assert jobs["align"] == jobs["train_dictionary"] == jobs["encode"] == 3  # 2 layers and 1 of the arm


def test_crosstalk_on_another_layer_than_the_chosen_scores_activity_anew(project, tmp_path):
    chosen = store.read_json(project / "results/tiny/alignment/chosen_layer.json")["layer"]
    tiny, cases = settings.load_yaml(project / "tests/tiny.yaml"), {}
    for layer in (0, 1):
        file = tmp_path / f"{layer}.yaml"
        file.write_text(yaml.safe_dump(changed(tiny, "crosstalk.features.layer", layer)))
        cases[str(layer)] = {"configs": [str(file)]}
    found = plans(project, cases)
    assert set(found[str(chosen)]) == REPORT and set(found[str(1 - chosen)]) == ACTIVITY


def test_another_layer_runs_that_layer_only(plans_of_keys):
    """One more forward pass over the 2 sections, one dictionary, and no other layer's."""
    jobs = dict(plans_of_keys["activations.layers"])
    assert jobs.pop("align") == 2  # of the dictionary and of the neurons
    assert jobs.pop("extract") == 2
    assert jobs.pop("score_units") == 2  # of <cls>, and of the features of what is now the last layer
    assert jobs.pop("crosstalk_section") == 2
    several = {"align", "extract", "score_units", "crosstalk_section"}
    assert set(jobs) == ACTIVATIONS - several - {"steer_towards"} and set(jobs.values()) == {1}


def test_another_layer_leaves_the_files_of_the_others(project, tmp_path):
    """The added layer's dictionary is trained; nothing of the earlier layers is written again."""
    overlay = changed(settings.load_yaml(project / "tests/tiny.yaml"), "activations.layers", [0, 1, 2])
    (tmp_path / "layers.yaml").write_text(yaml.safe_dump(overlay))
    results = project / "results/tiny"
    record = results / "activations/passes.json"
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*.zarr.zip")}
    target = "results/tiny/dictionaries/batchtopk/layer_2/cfg.json"
    done = snakemake(project, target, config=str(tmp_path / "layers.yaml"))
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        assert record.read_text() == "[[0, 1], [2]]\n"
        assert (results / "activations/section_1/0.added_1.zarr.zip").is_file()
        assert {path: path.stat().st_mtime_ns for path in before} == before
    finally:
        for path in results.glob("activations/*/*.added_1.zarr.zip"):
            path.unlink()
        record.write_text("[[0, 1]]\n")


@pytest.fixture(scope="module")
def from_files(project):
    """A configuration that reads the simulated sections as files, with the trained model as checkpoint."""
    tiny = settings.load_yaml(project / "tests/tiny.yaml")
    obo, gaf = (str(project / f"resources/demo_ontology/demo.{kind}") for kind in ("obo", "gaf"))
    setting = {
        **tiny,
        "run": "files",
        "samples": "one.tsv",
        "data_root": "results/tiny/simulated",
        "simulate": {"enabled": False},
        "ontology": {"obo": obo, "gaf": gaf},
        "model": {"checkpoint": "results/tiny/model"},
        "arms": {"untrained": None, "svd_only": None, "genes_a": None},
    }
    header = "sample\tpath\tformat\tdonor\tpixel_size_um\tcell_types\tshards\n"
    rows = [f"section_{i}\tsection_{i}\tcosmx\td{i}\t0.18\tsection_{i}/cell_types.csv\t1\n" for i in (1, 2)]
    (project / "one.tsv").write_text(header + rows[0])
    (project / "both.tsv").write_text("".join([header, *rows]))
    (project / "one.yaml").write_text(yaml.safe_dump(setting))
    (project / "both.yaml").write_text(yaml.safe_dump({**setting, "samples": "both.tsv"}))
    done = snakemake(project, "activations", "cells", config="one.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def test_another_sample_runs_its_own_jobs_and_what_pools(from_files):
    found = plans(
        from_files,
        {
            "nothing": {"configs": ["one.yaml"], "targets": ["activations", "cells"]},
            "stages": {"configs": ["both.yaml"], "targets": ["activations", "cells"]},
            "all": {"configs": ["both.yaml"]},
        },
    )
    assert found["nothing"] == {}
    stages = {rule: n for rule, n in found["stages"].items() if rule not in ("cells", "activations")}
    assert stages == {"ingest": 1, "extract": 1}, "the new sample's, and nobody else's"
    pooled = CELLS - {"ingest", "extract", "recover", "recover_units", "recover_pairs"}
    pooled -= PREPARED - REPORT - ATLAS  # a screen is simulated where tissue is
    assert isinstance(found["all"], dict), found["all"]
    assert set(found["all"]) == pooled | {"ingest", "extract"}
    assert found["all"]["ingest"] == found["all"]["extract"] == 1


def test_the_text_of_rules_names_each_rule_once(root):
    text = "".join(path.read_text() for path in sorted((root / "workflow/rules").glob("*.smk")))
    names = re.findall(r"^\s*(?:rule|checkpoint) (\w+):", text, re.MULTILINE)
    assert len(names) == len(set(names))
