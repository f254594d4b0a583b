"""For the tests of plug-ins, for our own, and for `dcalqr demo`: a dCache that misbehaves on demand.

=================  ==================================================================================================
`testing.samples`  true billing messages as bytes, and content of any size
`testing.door`     a WebDAV door with pools, over TLS, with a fault switch
`testing.pki`      certificates and proxies for both
=================  ==================================================================================================
"""
