# Signs each message on the command line with Mail::DKIM: arguments are a method such as
# relaxed/simple, a domain, a selector, a key file, and messages.  Each gets its signature on top.
use strict;
use warnings;
use Mail::DKIM::Signer;

my ( $method, $domain, $selector, $key, @paths ) = @ARGV;
for my $path (@paths) {
    my $signer = Mail::DKIM::Signer->new(
        Algorithm => 'rsa-sha256',
        Method    => $method,
        Domain    => $domain,
        Selector  => $selector,
        KeyFile   => $key,
    );
    open my $file, '<:raw', $path or die "$path: $!";
    my $text = do { local $/ = undef; <$file> };
    close $file or die "$path: $!";
    $signer->PRINT($text);
    $signer->CLOSE();
    my $field = $signer->signature->as_string;
    $field =~ s/\r?\n/\r\n/g;
    open my $out, '>:raw', $path or die "$path: $!";
    print {$out} $field, "\r\n", $text;
    close $out or die "$path: $!";
}
