"""Sections in the format of SpatialData, for napari-spatialdata, squidpy and others."""

SPATIALDATA = [
    f"{RUN}/spatialdata/{sample}.zarr"
    for sample, row in SAMPLES.items()
    if row["format"] != "h5ad_nonspatial"
]


# A folder, since `spatialdata.read_zarr` opens no zip.
rule export_spatialdata:
    input:
        cells=f"{RUN}/cells/{{sample}}.h5ad",
        activity=f"{RUN}/activity/{{sample}}.h5ad",
        regions=f"{RUN}/regions/{{sample}}.parquet",
        code=lib("job", "store", "export"),
    output:
        zarr=directory(f"{RUN}/spatialdata/{{sample}}.zarr"),
    log:
        f"{RUN}/logs/export_spatialdata/{{sample}}.log",
    benchmark:
        f"{RUN}/benchmarks/export_spatialdata/{{sample}}.tsv"
    conda:
        "../../envs/spatialdata.yaml"
    threads: 1
    resources:
        mem_mb=memory(2500, 20),
        runtime=minutes(30),
    script:
        "../../scripts/export_spatialdata.py"
