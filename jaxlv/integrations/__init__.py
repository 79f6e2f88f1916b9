"""jaxlv under the conventions of other libraries: sktime, Nixtla's statsforecast, the lm-evaluation-harness.

Each module needs the extra of its name; `import jaxlv` imports none of them.
"""
