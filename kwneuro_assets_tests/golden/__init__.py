"""Golden digests: the data version of every derivative, for every setting that it uses, on fixed inputs.

`digests.json` is compared with what the present code computes (`test_golden`). A result that changed while its
algorithm version did not fails, and the message names the derivative. After the version was raised, or a default
changed, the file is rewritten:

    python -m kwneuro_assets_tests.golden.update

What makes the comparison valid on another machine:

- The inputs of an entry are fixed values (`inputs`), never the result of another derivative. An entry fails for its
  own change alone.
- The entries are computed in one fresh process in which OpenBLAS, NumPy, PyTorch and oneDNN use their AVX2 kernels
  (`compute.KERNELS`), also on a processor with AVX-512. Nearly every x86-64 processor since 2015 has AVX2, so that
  they all run the same instructions. What numba compiles gives the same bits on every processor
  (docs/versions.md). The number of threads does not matter either (`versioning/test_bits`).
- The environment of the digests is recorded: processor, BLAS kernels, NumPy's instruction sets, versions of the
  libraries that compute. Data versions are compared exactly where the environment is the recorded one. That another
  x86-64 processor gives the same bits with these kernels is expected but was only emulated, so the processor counts.
- In another environment (another processor or release of NumPy, the oldest supported libraries) summaries of the
  arrays are compared instead: shape, data type, mean, root mean square, and one moment along each axis, which shows a
  flip or another order of volumes. `compare.TOLERANCE` is their tolerance, far above what kernels and releases change.

So a change of the last bit is found where processor and libraries are those of the last update, and a change that
matters is found in every environment.
"""
