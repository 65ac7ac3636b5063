"""Write the specification of ndx-calcium-lvm: ``python create_extension_spec.py [FOLDER]``, by default ``spec``."""

from __future__ import annotations

import sys
from pathlib import Path

from pynwb.spec import (
    NWBAttributeSpec,
    NWBDatasetSpec,
    NWBGroupSpec,
    NWBLinkSpec,
    NWBNamespaceBuilder,
    NWBRefSpec,
    export_spec,
)

NAME = "ndx-calcium-lvm"
VERSION = "0.1.0"
SPEC_FOLDER = Path(__file__).resolve().parents[2] / "spec"

# -- Facts that several types have ------------------------------------------------------------------------------------


def dims(default: list[str] | None = None) -> NWBAttributeSpec:
    """Names of the axes of the values."""
    doc = "Name of each axis of the values, such as time, roi, state, latent or lag; empty for a single number."
    return NWBAttributeSpec(
        name="dims", doc=doc, dtype="text", shape=(None,), dims=("num_axes",), default_value=default
    )


def unit() -> NWBAttributeSpec:
    """Unit of the values."""
    return NWBAttributeSpec(name="unit", doc="Unit of the values, such as Hz, s, dF/F or probability.", dtype="text")


def json_dataset(name: str, doc: str) -> NWBDatasetSpec:
    """Text that holds a JSON object; a dataset, since HDF5 attributes end at 64 kB."""
    return NWBDatasetSpec(name=name, doc=doc, dtype="text", quantity="?")


# hdmf reads an optional link that is absent as any other link of a matching type. So no type has two links whose
# targets could be of one type; a second one is an attribute that refers to an object.
def reference(name: str, target_type: str, doc: str) -> NWBAttributeSpec:
    """An attribute that refers to an object of the file."""
    return NWBAttributeSpec(
        name=name, doc=doc, dtype=NWBRefSpec(target_type=target_type, reftype="object"), required=False
    )


def source_link(doc: str = "The traces it was inferred from.") -> NWBLinkSpec:
    """A link to traces."""
    return NWBLinkSpec(name="source_series", target_type="TimeSeries", doc=doc, quantity="?")


def model_link() -> NWBLinkSpec:
    """A link to the model."""
    return NWBLinkSpec(name="model", target_type="FittedModel", doc="The model that inferred it.", quantity="?")


def posterior_std() -> NWBAttributeSpec:
    """A reference to the uncertainty of a series; hdmf cannot make a class that refers to its own type."""
    doc = "Series of the same shape with the posterior standard deviation of each value."
    return reference("posterior_std", "TimeSeries", doc)


# -- Arrays -----------------------------------------------------------------------------------------------------------

labeled_array = NWBDatasetSpec(
    neurodata_type_def="LabeledArray",
    neurodata_type_inc="NWBData",
    doc=(
        "Values of any shape that do not run over time, with unit and named axes: a parameter per state or latent, "
        "a matrix, a single number, initial conditions of trials."
    ),
    attributes=[
        NWBAttributeSpec(name="description", doc="What the values are.", dtype="text"),
        unit(),
        dims(),
    ],
)

parameter_column = NWBDatasetSpec(
    neurodata_type_def="ParameterColumn",
    neurodata_type_inc="VectorData",
    doc="A parameter with an entry, or a row of entries, per row of the table; with unit and named axes.",
    attributes=[unit(), dims()],
)

inferred_series = NWBGroupSpec(
    neurodata_type_def="InferredSeries",
    neurodata_type_inc="TimeSeries",
    doc="Values over time that a model inferred. Use a more specific type where there is one.",
    attributes=[dims(), posterior_std()],
    links=[source_link(), model_link()],
)

latent_series = NWBGroupSpec(
    neurodata_type_def="LatentSeries",
    neurodata_type_inc="InferredSeries",
    doc="Continuous latent variables or factors over time.",
    datasets=[
        NWBDatasetSpec(
            name="data",
            doc="Posterior mean of each latent variable.",
            dtype="numeric",
            dims=("num_times", "num_latents"),
            shape=(None, None),
        )
    ],
)

state_probability_series = NWBGroupSpec(
    neurodata_type_def="StateProbabilitySeries",
    neurodata_type_inc="InferredSeries",
    doc="Posterior probability of each discrete state over time.",
    datasets=[
        NWBDatasetSpec(
            name="data",
            doc="Probability of each state; the states of a frame sum to 1.",
            dtype="numeric",
            dims=("num_times", "num_states"),
            shape=(None, None),
        )
    ],
)

discrete_state_series = NWBGroupSpec(
    neurodata_type_def="DiscreteStateSeries",
    neurodata_type_inc="InferredSeries",
    doc="The discrete state of each frame, such as the most probable path of hidden states.",
    attributes=[
        reference("probabilities", "StateProbabilitySeries", "The posterior probabilities of the states."),
    ],
    datasets=[
        NWBDatasetSpec(
            name="data",
            doc="Number of the state, from 0; a negative number stands for no state.",
            dtype="int8",
            dims=("num_times",),
            shape=(None,),
        ),
        NWBDatasetSpec(
            name="state_labels",
            doc="Name of each state.",
            dtype="text",
            dims=("num_states",),
            shape=(None,),
            quantity="?",
        ),
    ],
)

inferred_roi_series = NWBGroupSpec(
    neurodata_type_def="InferredRoiSeries",
    neurodata_type_inc="RoiResponseSeries",
    doc="Values over time and ROIs that a model inferred. Use a more specific type where there is one.",
    attributes=[dims(["time", "roi"]), posterior_std()],
    links=[source_link(), model_link()],
)

spike_rate_series = NWBGroupSpec(
    neurodata_type_def="SpikeRateSeries",
    neurodata_type_inc="InferredRoiSeries",
    doc="Inferred firing rate of each ROI over time; the unit is Hz.",
)

spike_count_series = NWBGroupSpec(
    neurodata_type_def="SpikeCountSeries",
    neurodata_type_inc="InferredRoiSeries",
    doc="Inferred number of spikes of each ROI in each frame; expectations need not be whole numbers.",
)

# -- Intervals and tables ---------------------------------------------------------------------------------------------

discrete_state_intervals = NWBGroupSpec(
    neurodata_type_def="DiscreteStateIntervals",
    neurodata_type_inc="TimeIntervals",
    doc="Visits to discrete states: a row per run of frames in one state.",
    datasets=[
        NWBDatasetSpec(name="state", neurodata_type_inc="VectorData", dtype="int8", doc="Number of the state, from 0."),
        NWBDatasetSpec(
            name="mean_probability",
            neurodata_type_inc="VectorData",
            dtype="float32",
            doc="Mean posterior probability of the state over the visit.",
            quantity="?",
        ),
        NWBDatasetSpec(
            name="trial",
            neurodata_type_inc="VectorData",
            doc="Identifier of the trial the visit is in, as in the trials table.",
            quantity="?",
        ),
    ],
    links=[
        NWBLinkSpec(
            name="source_series",
            target_type="DiscreteStateSeries",
            doc="The series of states whose runs these are.",
            quantity="?",
        )
    ],
)

segment_intervals = NWBGroupSpec(
    neurodata_type_def="SegmentIntervals",
    neurodata_type_inc="TimeIntervals",
    doc="Stretches of time that the model was applied to, each without a gap; often windows of trials.",
    datasets=[
        NWBDatasetSpec(
            name="trial",
            neurodata_type_inc="VectorData",
            doc="Identifier of the trial, as in the trials table.",
            quantity="?",
        )
    ],
)


def roi_column(name: str, doc: str) -> NWBDatasetSpec:
    """An optional column of the table of parameters."""
    return NWBDatasetSpec(name=name, neurodata_type_inc="ParameterColumn", doc=doc, quantity="?")


calcium_parameters_table = NWBGroupSpec(
    neurodata_type_def="CalciumParametersTable",
    neurodata_type_inc="DynamicTable",
    doc=(
        "Parameters of the calcium model of each ROI, a row per ROI in the order of the inferred series. Each "
        "ParameterColumn says its unit; other columns may be added."
    ),
    datasets=[
        NWBDatasetSpec(
            name="roi", neurodata_type_inc="DynamicTableRegion", doc="The ROI in its plane segmentation.", quantity="?"
        ),
        NWBDatasetSpec(name="roi_id", neurodata_type_inc="VectorData", doc="Name of the ROI.", quantity="?"),
        roi_column("baseline", "Level of the trace without spikes."),
        roi_column("spike_amplitude", "Rise of the trace caused by one spike."),
        roi_column("noise_variance", "Variance of the noise in one frame."),
        roi_column("rise_time", "Rise time constant of the trace."),
        roi_column("decay_time", "Decay time constant of the trace."),
        roi_column("ar_coefs", "Autoregressive coefficients per frame (roi, lag), lag 1 first."),
        roi_column("neuropil_coefficient", "Share of the neuropil signal subtracted from the raw trace."),
        roi_column("rate_calibrated", "Whether single spikes stand out, so that rates are known in absolute terms."),
    ],
)

# -- Models and containers --------------------------------------------------------------------------------------------

estimator_state = NWBGroupSpec(
    neurodata_type_def="EstimatorState",
    neurodata_type_inc="NWBContainer",
    doc="Everything needed to restore the fitted estimator exactly: a JSON header and arrays, no executable content.",
    attributes=[
        NWBAttributeSpec(name="format", doc="Name and version of the layout of header and arrays.", dtype="text")
    ],
    datasets=[
        NWBDatasetSpec(
            name="header_json",
            doc="JSON object with the class, its constructor's arguments and fitted attributes that are not arrays.",
            dtype="text",
        ),
        NWBDatasetSpec(neurodata_type_inc="LabeledArray", doc="Fitted attributes that are arrays.", quantity="*"),
    ],
)

fitted_model = NWBGroupSpec(
    neurodata_type_def="FittedModel",
    neurodata_type_inc="NWBDataInterface",
    doc="A fitted latent-variable model: what it is, how it was fitted, and its parameters.",
    attributes=[
        NWBAttributeSpec(name="model_class", doc="Name of the model's class, such as CalciumHMM.", dtype="text"),
        NWBAttributeSpec(name="description", doc="The model in words.", dtype="text"),
        NWBAttributeSpec(name="software", doc="The package that fitted the model.", dtype="text"),
        NWBAttributeSpec(name="software_version", doc="Version of that package.", dtype="text"),
        NWBAttributeSpec(name="random_seed", doc="Seed of the random numbers.", dtype="int", required=False),
        NWBAttributeSpec(name="n_iterations", doc="Iterations of the fit.", dtype="int", required=False),
        NWBAttributeSpec(name="converged", doc="Whether the fit met its tolerance.", dtype="bool", required=False),
        NWBAttributeSpec(
            name="objective",
            doc="What the fit optimises, with its unit, such as log-likelihood (nats).",
            dtype="text",
            required=False,
        ),
        NWBAttributeSpec(
            name="log_likelihood",
            doc="Total log-likelihood of the traces under the model, in nats.",
            dtype="float64",
            required=False,
        ),
        NWBAttributeSpec(
            name="fit_datetime",
            doc="When the fit ended, as ISO 8601 text with a time zone.",
            dtype="text",
            required=False,
        ),
    ],
    datasets=[
        json_dataset("hyperparameters_json", "JSON object with the hyper-parameters as given to the model."),
        json_dataset("details_json", "JSON object with further facts of the fit that have no place of their own."),
        NWBDatasetSpec(
            name="objective_history",
            doc="The objective after each iteration.",
            dtype="numeric",
            dims=("num_iterations",),
            shape=(None,),
            quantity="?",
        ),
        NWBDatasetSpec(
            neurodata_type_inc="LabeledArray",
            doc=(
                "Parameters of the model, such as transition_matrix (state, next_state), initial_probs (state), "
                "loadings (roi, latent), timescales (latent), state_rates (roi, state)."
            ),
            quantity="*",
        ),
    ],
    groups=[
        NWBGroupSpec(
            name="estimator_state",
            neurodata_type_inc="EstimatorState",
            doc="What restores the estimator exactly.",
            quantity="?",
        )
    ],
    links=[source_link("The traces it was fitted to.")],
)

trace_source = NWBGroupSpec(
    neurodata_type_def="TraceSource",
    neurodata_type_inc="NWBContainer",
    doc="Where traces came from, and which ROIs they are of; one for each series that was read.",
    attributes=[
        NWBAttributeSpec(name="kind", doc="Kind of source: nwb, suite2p or array.", dtype="text"),
        NWBAttributeSpec(name="file", doc="Name or path of the file or folder.", dtype="text", required=False),
        NWBAttributeSpec(
            name="series_path", doc="Path of the series inside its NWB file.", dtype="text", required=False
        ),
        NWBAttributeSpec(
            name="neuropil_path",
            doc="Path of the neuropil series inside its NWB file.",
            dtype="text",
            required=False,
        ),
        NWBAttributeSpec(
            name="plane_segmentation_path",
            doc="Path of the plane segmentation inside its NWB file.",
            dtype="text",
            required=False,
        ),
        NWBAttributeSpec(
            name="series_object_id", doc="NWB object identifier of the series.", dtype="text", required=False
        ),
        reference("neuropil_series", "TimeSeries", "The neuropil of the traces, if in this file."),
    ],
    datasets=[
        NWBDatasetSpec(
            name="rois",
            neurodata_type_inc="DynamicTableRegion",
            doc="The ROIs in the plane segmentation of this file, in the order of the inferred series.",
            quantity="?",
        ),
        NWBDatasetSpec(
            name="roi_positions",
            doc="Position of each ROI of this source along the roi axis; without it, all ROIs in order.",
            dtype="int",
            dims=("num_rois",),
            shape=(None,),
            quantity="?",
        ),
        NWBDatasetSpec(
            name="table_rows",
            doc="Row of each ROI in the original plane segmentation or list of ROIs.",
            dtype="int",
            dims=("num_rois",),
            shape=(None,),
            quantity="?",
        ),
        NWBDatasetSpec(
            name="planes",
            doc="Number of the imaging plane of each ROI.",
            dtype="int",
            dims=("num_rois",),
            shape=(None,),
            quantity="?",
        ),
    ],
    links=[
        NWBLinkSpec(name="series", target_type="TimeSeries", doc="The traces, if in this file.", quantity="?"),
    ],
)

calcium_lvm_results = NWBGroupSpec(
    neurodata_type_def="CalciumLVMResults",
    neurodata_type_inc="NWBDataInterface",
    doc="A fitted latent-variable model of one recording with everything it inferred from it.",
    attributes=[
        NWBAttributeSpec(name="description", doc="The results in words.", dtype="text"),
        NWBAttributeSpec(
            name="time_unit",
            doc="Unit of the times: s, or frames where the recording has no clock and times are frame numbers.",
            dtype="text",
            default_value="s",
        ),
        NWBAttributeSpec(
            name="sampling_rate", doc="Frames per second of the recording, in Hz.", dtype="float64", required=False
        ),
        NWBAttributeSpec(name="is_regular", doc="Whether all frames are evenly spaced.", dtype="bool", required=False),
    ],
    datasets=[
        NWBDatasetSpec(
            name="roi_ids",
            doc="Name of each ROI along the roi axis, as given: numbers or text.",
            dims=("num_rois",),
            shape=(None,),
            quantity="?",
        ),
        NWBDatasetSpec(
            name="segment_bounds",
            doc=(
                "First frame of each segment without a gap and the frame after its last, counted in the series of "
                "these results. Rows are in the order the model was given the segments; frames are in order of time."
            ),
            dtype="int",
            dims=("num_segments", "first_frame, end_frame"),
            shape=(None, 2),
            quantity="?",
        ),
        NWBDatasetSpec(
            name="trial_ids",
            doc="Identifier of the trial of each segment, as given: numbers or text.",
            dims=("num_segments",),
            shape=(None,),
            quantity="?",
        ),
        NWBDatasetSpec(
            name="trials",
            neurodata_type_inc="DynamicTableRegion",
            doc="The trial of each segment: its row in the trials table of the file.",
            quantity="?",
        ),
        NWBDatasetSpec(
            name="software_versions",
            doc="Packages the results rest on, with their versions.",
            dtype="text",
            dims=("num_packages", "name, version"),
            shape=(None, 2),
            quantity="?",
        ),
        json_dataset("metadata_json", "JSON object with further facts of the recording."),
        NWBDatasetSpec(
            neurodata_type_inc="LabeledArray", doc="What was inferred without an axis of time.", quantity="*"
        ),
    ],
    groups=[
        NWBGroupSpec(name="model", neurodata_type_inc="FittedModel", doc="The model."),
        NWBGroupSpec(neurodata_type_inc="TraceSource", doc="Where the traces came from.", quantity="*"),
        NWBGroupSpec(neurodata_type_inc="InferredSeries", doc="What was inferred over time.", quantity="*"),
        NWBGroupSpec(neurodata_type_inc="InferredRoiSeries", doc="What was inferred over time and ROIs.", quantity="*"),
        NWBGroupSpec(neurodata_type_inc="DiscreteStateIntervals", doc="Visits to discrete states.", quantity="*"),
        NWBGroupSpec(
            name="segments", neurodata_type_inc="SegmentIntervals", doc="The segments as intervals.", quantity="?"
        ),
        NWBGroupSpec(
            name="roi_parameters",
            neurodata_type_inc="CalciumParametersTable",
            doc="Parameters of each ROI.",
            quantity="?",
        ),
        NWBGroupSpec(
            name="roi_metadata",
            neurodata_type_inc="DynamicTable",
            doc="What the source says of each ROI, a row per ROI in the order of the inferred series.",
            quantity="?",
        ),
    ],
)

# Each type after those it refers to.
TYPES = [
    labeled_array,
    parameter_column,
    estimator_state,
    fitted_model,
    inferred_series,
    latent_series,
    state_probability_series,
    discrete_state_series,
    inferred_roi_series,
    spike_rate_series,
    spike_count_series,
    discrete_state_intervals,
    segment_intervals,
    calcium_parameters_table,
    trace_source,
    calcium_lvm_results,
]


def main(folder: Path = SPEC_FOLDER) -> None:
    """Write both files of the specification into a folder."""
    namespace = NWBNamespaceBuilder(
        name=NAME,
        version=VERSION,
        doc="Results of latent-variable models of calcium imaging: models, states, latents, rates and parameters.",
        author=["The nwb_calcium_lvm developers"],
        contact=["developers@nwb-calcium-lvm.example"],
    )
    namespace.include_namespace(namespace="core")
    export_spec(namespace, TYPES, str(folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SPEC_FOLDER)
