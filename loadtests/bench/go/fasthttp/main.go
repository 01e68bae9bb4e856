// The measured service on fasthttp: fasthttp PORT
package main

import (
	"bytes"
	"log"
	"os"
	"strconv"

	"github.com/valyala/fasthttp"
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
	log.Fatal(fasthttp.ListenAndServe("127.0.0.1:"+os.Args[1], func(ctx *fasthttp.RequestCtx) {
		ctx.SetContentType("text/plain")
		ctx.SetBody(body)
	}))
}
