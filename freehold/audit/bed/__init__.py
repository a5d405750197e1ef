"""The planted test bed: small models, clean and backdoored by recipe, that detectors are tried on.

``language`` makes their text, ``small`` their weights, ``planting`` trains them as ``recipes``
says, ``running`` examines all of them and ``tables`` counts.
"""
