// A second SSH server transport, as small as it can be, for what golang.org/x/crypto/ssh cannot be made to do: it
// keeps windows, packet sizes and the order of messages, which is its job. Here every packet can be any bytes at any
// time. One key exchange (curve25519-sha256), one host key type (ECDSA P-256), AES in GCM or CTR with HMAC, no
// compression, no strict key exchange. Not for anything but tests: it trusts its caller and checks little.
package main

import (
	"bufio"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
)

// Message numbers (RFC 4250 section 4.1).
const (
	msgDisconnect     = 1
	msgIgnore         = 2
	msgUnimplemented  = 3
	msgDebug          = 4
	msgServiceRequest = 5
	msgServiceAccept  = 6
	msgKexInit        = 20
	msgNewKeys        = 21
	msgECDHInit       = 30
	msgECDHReply      = 31
	msgAuthRequest    = 50
	msgAuthFailure    = 51
	msgAuthSuccess    = 52
	msgGlobalRequest  = 80
	msgRequestSuccess = 81
	msgRequestFailure = 82
	msgChannelOpen    = 90
	msgChannelConfirm = 91
	msgChannelFailed  = 92
	msgWindowAdjust   = 93
	msgChannelData    = 94
	msgChannelExtData = 95
	msgChannelEOF     = 96
	msgChannelClose   = 97
	msgChannelRequest = 98
	msgChannelSuccess = 99
)

type kexInit struct {
	Cookie                        [16]byte `sshtype:"20"`
	Kex, HostKeys                 []string
	CipherIn, CipherOut           []string // of the server: client to server, server to client
	MACIn, MACOut                 []string
	CompressionIn, CompressionOut []string
	LanguagesIn, LanguagesOut     []string
	FirstKexFollows               bool
	Reserved                      uint32
}

type ecdhInit struct {
	Public []byte `sshtype:"30"`
}

type ecdhReply struct {
	HostKey   []byte `sshtype:"31"`
	Public    []byte
	Signature []byte
}

// rawQuirks are the ways in which the handshake itself goes wrong.
type rawQuirks struct {
	version         string // sent in place of the server's version string
	noKexInit       bool   // falls silent after the version string
	noKexReply      bool   // falls silent after the client's half of the key exchange
	badSignature    bool   // signs another exchange than this one
	unknownCipher   bool   // offers nothing that anybody has
	noServiceAccept bool   // falls silent after the key exchange
}

var errFellSilent = errors.New("fell silent, as the mode says")

// rawConn is the server's end of an SSH connection, below authentication.
type rawConn struct {
	net.Conn
	in             *bufio.Reader
	quirks         rawQuirks
	key            ssh.Signer
	clientVersion  string
	id             []byte // the first exchange hash
	writing        sync.Mutex
	reader, writer packetCipher
	readSeq        uint32
	writeSeq       uint32
	sentInit       []byte // our KEXINIT that the client has not answered yet
}

// newRawConn exchanges version strings and keys.
func newRawConn(conn net.Conn, key ssh.Signer, quirks rawQuirks) (*rawConn, error) {
	c := &rawConn{Conn: conn, in: bufio.NewReader(conn), quirks: quirks, key: key, reader: clear{}, writer: clear{}}
	if c.quirks.version == "" {
		c.quirks.version = serverVersion
	}
	if _, err := io.WriteString(conn, c.quirks.version+"\r\n"); err != nil {
		return nil, err
	}
	line, err := c.in.ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("version: %w", err)
	}
	c.clientVersion = strings.TrimRight(line, "\r\n")
	if quirks.noKexInit {
		return nil, c.deaf()
	}
	if err := c.startKex(); err != nil {
		return nil, err
	}
	first, err := c.readPacket()
	if err != nil {
		return nil, err
	}
	if first[0] != msgKexInit {
		return nil, fmt.Errorf("message %d instead of KEXINIT", first[0])
	}
	return c, c.finishKex(first)
}

// deaf swallows what comes until the connection ends.
func (c *rawConn) deaf() error {
	_, _ = io.Copy(io.Discard, c.in)
	return errFellSilent
}

// send writes messages, each one packet.
func (c *rawConn) send(payloads ...[]byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	for _, payload := range payloads {
		if _, err := c.Conn.Write(c.writer.seal(c.writeSeq, payload)); err != nil {
			return err
		}
		c.writeSeq++
	}
	return nil
}

// sendBroken writes one packet whose bytes spoil has changed after it was sealed.
func (c *rawConn) sendBroken(payload []byte, spoil func(packet []byte)) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	packet := c.writer.seal(c.writeSeq, payload)
	spoil(packet)
	c.writeSeq++
	_, err := c.Conn.Write(packet)
	return err
}

func (c *rawConn) readPacket() ([]byte, error) {
	payload, err := c.reader.open(c.readSeq, c.in)
	if err != nil {
		return nil, err
	}
	c.readSeq++
	if len(payload) == 0 {
		return nil, errors.New("empty packet")
	}
	return payload, nil
}

// startKex sends our KEXINIT.
func (c *rawConn) startKex() error {
	ciphers := []string{"aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr"}
	if c.quirks.unknownCipher {
		ciphers = []string{"rot13@example.com"}
	}
	macs := []string{"hmac-sha2-256", "hmac-sha2-512"}
	none := []string{"none"}
	init := kexInit{
		Kex:      []string{"curve25519-sha256", "curve25519-sha256@libssh.org"},
		HostKeys: []string{ssh.KeyAlgoECDSA256},
		CipherIn: ciphers, CipherOut: ciphers, MACIn: macs, MACOut: macs, CompressionIn: none, CompressionOut: none,
	}
	_, _ = rand.Read(init.Cookie[:])
	c.sentInit = ssh.Marshal(&init)
	return c.send(c.sentInit)
}

// choose returns the client's first name that the server has as well.
func choose(what string, client, server []string) (string, error) {
	for _, name := range client {
		if slices.Contains(server, name) {
			return name, nil
		}
	}
	return "", fmt.Errorf("no common %s: the client has %s", what, strings.Join(client, ","))
}

// exchange is the result of a key exchange.
type exchange struct {
	secret, hash []byte
	theirs, ours kexInit
}

// finishKex carries a key exchange through, from the client's KEXINIT to the new keys in both directions.
func (c *rawConn) finishKex(peerInit []byte) error {
	if c.sentInit == nil {
		if err := c.startKex(); err != nil {
			return err
		}
	}
	var x exchange
	if err := errors.Join(ssh.Unmarshal(peerInit, &x.theirs), ssh.Unmarshal(c.sentInit, &x.ours)); err != nil {
		return err
	}
	reply, err := c.agree(&x, peerInit)
	if err != nil {
		return err
	}
	c.sentInit = nil
	if c.id == nil {
		c.id = x.hash
	}
	// Ours go out as one step: nothing may be sent between NEWKEYS and the change of keys.
	c.writing.Lock()
	for _, payload := range [][]byte{ssh.Marshal(reply), {msgNewKeys}} {
		if _, err = c.Conn.Write(c.writer.seal(c.writeSeq, payload)); err != nil {
			break
		}
		c.writeSeq++
	}
	if err == nil {
		c.writer, err = c.newDirection(x, x.theirs.CipherOut, x.ours.CipherOut, x.theirs.MACOut, x.ours.MACOut, "BDF")
	}
	c.writing.Unlock()
	if err != nil {
		return err
	}
	packet, err := c.readPacket()
	if err != nil {
		return err
	}
	if packet[0] != msgNewKeys {
		return fmt.Errorf("message %d instead of NEWKEYS", packet[0])
	}
	c.reader, err = c.newDirection(x, x.theirs.CipherIn, x.ours.CipherIn, x.theirs.MACIn, x.ours.MACIn, "ACE")
	return err
}

// agree computes the shared secret and the exchange hash (RFC 8731, RFC 5656 section 4) and signs it.
func (c *rawConn) agree(x *exchange, peerInit []byte) (*ecdhReply, error) {
	if _, err := choose("key exchange", x.theirs.Kex, x.ours.Kex); err != nil {
		return nil, err
	}
	packet, err := c.readPacket()
	if err != nil {
		return nil, err
	}
	var init ecdhInit
	if err := ssh.Unmarshal(packet, &init); err != nil {
		return nil, err
	}
	if c.quirks.noKexReply {
		return nil, c.deaf()
	}
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	public, err := ecdh.X25519().NewPublicKey(init.Public)
	if err != nil {
		return nil, err
	}
	shared, err := private.ECDH(public)
	if err != nil {
		return nil, err
	}
	x.secret = mpint(shared)
	blob := c.key.PublicKey().Marshal()
	digest := sha256.New()
	for _, part := range [][]byte{[]byte(c.clientVersion), []byte(c.quirks.version), peerInit, c.sentInit, blob,
		init.Public, private.PublicKey().Bytes()} {
		digest.Write(lengthAndBytes(part))
	}
	digest.Write(x.secret)
	x.hash = digest.Sum(nil)
	signed := slices.Clone(x.hash)
	if c.quirks.badSignature {
		signed[0] ^= 1
	}
	signature, err := c.key.Sign(rand.Reader, signed)
	if err != nil {
		return nil, err
	}
	return &ecdhReply{HostKey: blob, Public: private.PublicKey().Bytes(), Signature: ssh.Marshal(signature)}, nil
}

// newDirection derives one direction's cipher; letters are those of RFC 4253 section 7.2 for vector, key, MAC key.
func (c *rawConn) newDirection(x exchange, theirs, ours, theirMACs, ourMACs []string, letters string) (packetCipher, error) {
	name, err := choose("cipher", theirs, ours)
	if err != nil {
		return nil, err
	}
	mac := ""
	if !cipherKinds[name].aead {
		if mac, err = choose("MAC", theirMACs, ourMACs); err != nil {
			return nil, err
		}
	}
	return newCipher(name, mac, func(what byte, n int) []byte {
		letter := letters[strings.IndexByte("vkm", what)]
		var key []byte
		last := append([]byte{letter}, c.id...)
		for len(key) < n {
			digest := sha256.Sum256(slices.Concat(x.secret, x.hash, last))
			key = append(key, digest[:]...)
			last = key
		}
		return key[:n]
	})
}

func lengthAndBytes(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

// mpint encodes a positive number (RFC 4251 section 5).
func mpint(b []byte) []byte {
	b = new(big.Int).SetBytes(b).Bytes()
	if len(b) > 0 && b[0]&0x80 != 0 {
		b = append([]byte{0}, b...)
	}
	return lengthAndBytes(b)
}
