// PostgreSQL's protocol on nothing but Go's own TLS, as a client or as a server. Usage:
//
//	go_tls client ADDRESS CONNECTIONS STATEMENTS    each statement names its connection's port
//	go_tls server CERTIFICATE KEY                   says its port; answers every query with one row
//
// Messages are read by Read itself, into arrays that stay on the goroutine's stack: it may move while Read waits.
package main

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"log"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
)

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

// Reads a message without its type byte, where it has one.
func body(conn *tls.Conn) (int, bool) {
	var length [4]byte
	for have := 0; have < 4; {
		n, err := conn.Read(length[have:])
		if err != nil {
			return 0, false
		}
		have += n
	}
	return int(binary.BigEndian.Uint32(length[:])) - 4, true
}

func skip(conn *tls.Conn, left int) {
	var some [512]byte
	for left > 0 {
		left -= must(conn.Read(some[:min(left, len(some))]))
	}
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

// The type of the next message, which is skipped; 0 at the end.
func next(conn *tls.Conn) byte {
	var kind [1]byte
	if n, err := conn.Read(kind[:]); n == 0 || err != nil {
		return 0
	}
	length, ok := body(conn)
	if !ok {
		return 0
	}
	skip(conn, length)
	return kind[0]
}

func message(kind string, body string) []byte {
	return []byte(kind + string(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4))) + body)
}

func ready(conn *tls.Conn) {
	for {
		switch next(conn) {
		case 'Z':
			return
		case 0:
			log.Fatal("the server is gone")
		}
	}
}

func client(address string, connections, statements int) {
	var all sync.WaitGroup
	// All are connected before any asks: they are at work at the same time.
	var connected sync.WaitGroup
	connected.Add(connections)
	for n := 0; n < connections; n++ {
		all.Add(1)
		go func() {
			defer all.Done()
			plain := must(net.Dial("tcp", address))
			must(plain.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47}))
			must(plain.Read(make([]byte, 1)))
			conn := tls.Client(plain, &tls.Config{InsecureSkipVerify: true})
			defer conn.Close()
			must(conn.Write(message("", "\x00\x03\x00\x00user\x00gopher\x00database\x00go\x00\x00")))
			ready(conn)
			connected.Done()
			connected.Wait()
			port := plain.LocalAddr().(*net.TCPAddr).Port
			for i := 0; i < statements; i++ {
				text := fmt.Sprintf("select %d, %d", port, i)
				// Some are many records, of the growing lengths that Go begins with.
				if i%10 == 7 {
					text += ", '" + strings.Repeat("x", 1000*(i+1)) + "'"
				}
				must(conn.Write(message("Q", text+"\x00")))
				ready(conn)
			}
		}()
	}
	all.Wait()
}

func serve(plain net.Conn, config *tls.Config) {
	var request [8]byte
	must(plain.Read(request[:]))
	must(plain.Write([]byte("S")))
	conn := tls.Server(plain, config)
	defer conn.Close()
	length, ok := body(conn)
	if !ok {
		return
	}
	skip(conn, length)
	must(conn.Write(append(message("R", "\x00\x00\x00\x00"), message("Z", "I")...)))
	for {
		switch next(conn) {
		case 'Q':
			row := message("T", "\x00\x01n\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x19\xff\xff\xff\xff\xff\xff\x00\x00")
			row = append(row, message("D", "\x00\x01\x00\x00\x00\x011")...)
			row = append(row, message("C", "SELECT 1\x00")...)
			must(conn.Write(append(row, message("Z", "I")...)))
		case 0, 'X':
			return
		}
	}
}

func server(certificate, key string) {
	pair := must(tls.LoadX509KeyPair(certificate, key))
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	for {
		go serve(must(listener.Accept()), &tls.Config{Certificates: []tls.Certificate{pair}})
	}
}

func main() {
	switch os.Args[1] {
	case "client":
		client(os.Args[2], must(strconv.Atoi(os.Args[3])), must(strconv.Atoi(os.Args[4])))
	case "server":
		server(os.Args[2], os.Args[3])
	}
}
