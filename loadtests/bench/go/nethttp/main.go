// The measured service on net/http: nethttp PORT
package main

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
)

func responseBody() []byte {
	size, err := strconv.Atoi(os.Getenv("RESPONSE_SIZE"))
	if err != nil {
		return []byte("hello")
	}
	return bytes.Repeat([]byte("x"), size)
}

func main() {
	body := responseBody()
	length := []string{strconv.Itoa(len(body))}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header()["Content-Type"] = []string{"text/plain"}
		w.Header()["Content-Length"] = length
		w.Write(body)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
