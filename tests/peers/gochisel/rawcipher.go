package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
)

// maxRawPacket bounds what the raw transport takes in; a client never sends more than 35,000 bytes or so.
const maxRawPacket = 256 * 1024

// packetCipher protects the binary packets of one direction (RFC 4253 section 6).
type packetCipher interface {
	// seal makes a packet of a payload; seq is the packet's number in its direction.
	seal(seq uint32, payload []byte) []byte
	// open reads one packet and returns its payload.
	open(seq uint32, r io.Reader) ([]byte, error)
}

// cipherKind is what a negotiated name needs: the lengths of key and initial vector, and how it is made.
type cipherKind struct {
	key, iv int
	aead    bool
}

var cipherKinds = map[string]cipherKind{
	"aes128-gcm@openssh.com": {key: 16, iv: 12, aead: true},
	"aes256-gcm@openssh.com": {key: 32, iv: 12, aead: true},
	"aes128-ctr":             {key: 16, iv: 16},
	"aes192-ctr":             {key: 24, iv: 16},
	"aes256-ctr":             {key: 32, iv: 16},
}

var macKinds = map[string]func() hash.Hash{
	"hmac-sha2-256": sha256.New,
	"hmac-sha2-512": sha512.New,
}

// newCipher makes the cipher of one direction; derive returns n bytes of the key, vector or MAC key that belongs to
// it (RFC 4253 section 7.2: 'k', 'v' and 'm' here stand for the direction's own letters).
func newCipher(name, mac string, derive func(what byte, n int) []byte) (packetCipher, error) {
	kind, ok := cipherKinds[name]
	if !ok {
		return nil, fmt.Errorf("unknown cipher %q", name)
	}
	block, err := aes.NewCipher(derive('k', kind.key))
	if err != nil {
		return nil, err
	}
	iv := derive('v', kind.iv)
	if kind.aead {
		aead, err := cipher.NewGCM(block)
		return &gcm{aead: aead, nonce: iv}, err
	}
	newHash, ok := macKinds[mac]
	if !ok {
		return nil, fmt.Errorf("unknown MAC %q", mac)
	}
	size := newHash().Size()
	return &ctr{stream: cipher.NewCTR(block, iv), mac: hmac.New(newHash, derive('m', size))}, nil
}

// pad frames a payload: length, padding length, payload, padding. The bytes after the first skip are a multiple of
// align, at least four of them padding.
func pad(payload []byte, align, skip int) []byte {
	padding := align - (5-skip+len(payload))%align
	if padding < 4 {
		padding += align
	}
	packet := make([]byte, 5+len(payload)+padding)
	binary.BigEndian.PutUint32(packet, uint32(len(packet)-4))
	packet[4] = byte(padding)
	copy(packet[5:], payload)
	_, _ = rand.Read(packet[5+len(payload):])
	return packet
}

// strip takes the payload out of what follows the length.
func strip(body []byte) ([]byte, error) {
	if len(body) < 1 || int(body[0])+1 > len(body) {
		return nil, errors.New("padding is longer than the packet")
	}
	return body[1 : len(body)-int(body[0])], nil
}

func checkedLength(b []byte) (int, error) {
	n := binary.BigEndian.Uint32(b)
	if n < 5 || n > maxRawPacket {
		return 0, fmt.Errorf("packet of %d bytes", n)
	}
	return int(n), nil
}

// clear is the state before the first key exchange.
type clear struct{}

func (clear) seal(_ uint32, payload []byte) []byte { return pad(payload, 8, 0) }

func (clear) open(_ uint32, r io.Reader) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n, err := checkedLength(length[:])
	if err != nil {
		return nil, err
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	return strip(body)
}

// gcm is RFC 5647 as OpenSSH does it: the length is sent in the clear and authenticated.
type gcm struct {
	aead  cipher.AEAD
	nonce []byte
}

func (c *gcm) step() {
	counter := c.nonce[4:]
	binary.BigEndian.PutUint64(counter, binary.BigEndian.Uint64(counter)+1)
}

func (c *gcm) seal(_ uint32, payload []byte) []byte {
	packet := pad(payload, 16, 4)
	defer c.step()
	return c.aead.Seal(packet[:4], c.nonce, packet[4:], packet[:4:4])
}

func (c *gcm) open(_ uint32, r io.Reader) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n, err := checkedLength(length[:])
	if err != nil {
		return nil, err
	}
	sealed := make([]byte, n+c.aead.Overhead())
	if _, err := io.ReadFull(r, sealed); err != nil {
		return nil, err
	}
	defer c.step()
	body, err := c.aead.Open(sealed[:0], c.nonce, sealed, length[:])
	if err != nil {
		return nil, err
	}
	return strip(body)
}

// ctr is a stream cipher with a MAC over the clear packet and its number (RFC 4253 section 6.4).
type ctr struct {
	stream cipher.Stream
	mac    hash.Hash
}

func (c *ctr) tag(seq uint32, packet []byte) []byte {
	c.mac.Reset()
	_ = binary.Write(c.mac, binary.BigEndian, seq)
	c.mac.Write(packet)
	return c.mac.Sum(nil)
}

func (c *ctr) seal(seq uint32, payload []byte) []byte {
	packet := pad(payload, 16, 0)
	tag := c.tag(seq, packet)
	c.stream.XORKeyStream(packet, packet)
	return append(packet, tag...)
}

func (c *ctr) open(seq uint32, r io.Reader) ([]byte, error) {
	packet := make([]byte, 4)
	if _, err := io.ReadFull(r, packet); err != nil {
		return nil, err
	}
	c.stream.XORKeyStream(packet, packet)
	n, err := checkedLength(packet)
	if err != nil {
		return nil, err
	}
	rest := make([]byte, n+c.mac.Size())
	if _, err := io.ReadFull(r, rest); err != nil {
		return nil, err
	}
	c.stream.XORKeyStream(rest[:n], rest[:n])
	packet = append(packet, rest[:n]...)
	if !hmac.Equal(c.tag(seq, packet), rest[n:]) {
		return nil, errors.New("wrong MAC")
	}
	return strip(packet[4:])
}
