"""An issuer of tokens, by PyJWT. Orders: key, token."""

import json

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from remote import obey, tell

MAKERS = {
    "RS256": (lambda: rsa.generate_private_key(65537, 2048), RSAAlgorithm),
    "ES256": (lambda: ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
    "EdDSA": (ed25519.Ed25519PrivateKey.generate, OKPAlgorithm),
}
keys = {}


def key(id, alg):
    """Makes a key, and tells its public half as a JWK, and as PEM."""
    make, algorithm = MAKERS[alg]
    private = make()
    keys[id] = (private, alg)
    public = json.loads(algorithm.to_jwk(private.public_key()))
    pem = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    tell("key", jwk={**public, "kid": id, "alg": alg, "use": "sig"}, pem=pem.decode())


def token(id, claims):
    """Signs claims."""
    private, alg = keys[id]
    tell("token", token=jwt.encode(claims, private, algorithm=alg, headers={"kid": id}))


obey({"key": key, "token": token})
