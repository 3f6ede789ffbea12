package main

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
)

// hostKey makes the server's ECDSA P-256 key: always the same one for the same seed, so that a server can be
// restarted under its fingerprint; a new one for an empty seed.
func hostKey(seed string) (ssh.Signer, error) {
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if seed != "" {
		digest := sha256.Sum256([]byte("gochisel host key " + seed))
		key, err = ecdh.P256().NewPrivateKey(digest[:])
	}
	if err != nil {
		return nil, err
	}
	// The only way from a scalar to a signing key that Go 1.24 has as well.
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	signing, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	return ssh.NewSignerFromKey(signing)
}

// fingerprint is the padded base64 of the SHA-256 of the key's blob: 44 characters.
func fingerprint(key ssh.PublicKey) string {
	digest := sha256.Sum256(key.Marshal())
	return base64.StdEncoding.EncodeToString(digest[:])
}

// selfSigned makes a certificate for localhost and the loopback addresses that is its own CA.
func selfSigned() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: "localhost"},
		DNSNames:              []string{"localhost"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	certificate := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
